#!/bin/bash
# Models Shai-Hulud 2.0 (2025-11): a container with the host inside, sudo without a password, no firewall, another resolver.
# must: privilege-escalation/container-with-host
# must: privilege-escalation/sudoers-written
# must: defense-impairment/firewall-flushed
# must: defense-impairment/resolver-changed
# gate: fail
mkdir -p /tmp/bin
for stub in docker iptables; do cp /bin/true /tmp/bin/$stub; done
PATH=/tmp/bin:$PATH
docker run --rm --privileged -v /:/host ubuntu bash -c "cp /host/tmp/runner /host/etc/sudoers.d/runner"
mkdir -p /etc/sudoers.d
echo 'runner ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/runner
iptables -F
echo 'nameserver 198.51.100.7' > /etc/resolv.conf
