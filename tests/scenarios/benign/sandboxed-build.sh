#!/bin/bash
# A build in namespaces of its own, as image builders and sandboxes make them.
# allow: privilege-escalation/user-namespace-by-script low
# allow: privilege-escalation/root-changed-by-script medium
mkdir -p rootfs/bin rootfs/lib rootfs/lib64 rootfs/usr rootfs/proc rootfs/tmp upper work merged
unshare --user --map-root-user --mount --pid --fork sh -c 'mount -t proc proc rootfs/proc && ls rootfs/proc > /dev/null'
unshare --mount sh -c 'mount -t overlay overlay -o lowerdir=/usr/share/doc,upperdir=upper,workdir=work merged; echo built > merged/built; umount merged'
cp /bin/busybox rootfs/bin/sh 2> /dev/null && chroot rootfs /bin/sh -c 'echo inside > /tmp/x'
true
