#!/bin/bash
# Models LiteLLM and CanisterWorm (2026-03): the pod's token is read and the cluster's API is spoken to.
# must: credential-access/service-account-token-read
# gate: fail
mkdir -p /mnt/secrets/kubernetes.io/serviceaccount
echo decoy-token > /mnt/secrets/kubernetes.io/serviceaccount/token
mount --bind /mnt/secrets /var/run/secrets 2>/dev/null || { mkdir -p /run/secrets && mount --bind /mnt/secrets /run/secrets; }
curl -skm 2 -H "Authorization: Bearer $(cat /run/secrets/kubernetes.io/serviceaccount/token)" https://10.96.0.1:6443/api/v1/namespaces/kube-system/pods
rmdir /run/secrets 2>/dev/null
true
