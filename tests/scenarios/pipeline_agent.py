"""The agent of a pipeline: a process of its name, with a secret in its memory."""

import ctypes
import time

SECRET = "isSecret:decoy-value"
PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, b"Runner.Worker", 0, 0, 0)
time.sleep(60)
