#!/bin/bash
# Models loglib (2022-06) and Shai-Hulud (2025-09): the metadata service is asked for the role's credentials.
# must: credential-access/metadata-contact | credential-access/metadata-contact-by-dependency
# must: credential-access/metadata-credentials
# gate: fail
curl -sm 2 http://169.254.169.254/latest/meta-data/iam/security-credentials/role
python3 -c 'import urllib.request; urllib.request.urlopen("http://169.254.169.254/latest/meta-data/iam/security-credentials/", timeout=2).read()'
