#!/bin/bash
# A Debian package built with fakeroot, looked into, and installed below another root, with its maintainer scripts' files.
mkdir -p pkg/debian && cd pkg
printf 'sample (1.0) unstable; urgency=low\n\n  * First.\n\n -- Someone <someone@example.org>  Mon, 01 Jan 2024 00:00:00 +0000\n' > debian/changelog
printf 'Source: sample\nMaintainer: Someone <someone@example.org>\nStandards-Version: 4.6.2\n\nPackage: sample\nArchitecture: all\nDescription: sample\n A sample.\n' > debian/control
cat > debian/rules <<'MK'
#!/usr/bin/make -f
build build-arch build-indep:
	sed -i 's/^/# /' notes || true
binary binary-arch binary-indep:
	install -d debian/tmp/DEBIAN debian/tmp/usr/bin debian/tmp/usr/lib/systemd/system debian/tmp/etc/cron.d
	printf '#!/bin/sh\nexit 0\n' > debian/tmp/usr/bin/sample; chmod 755 debian/tmp/usr/bin/sample
	printf '[Service]\nExecStart=/usr/bin/sample\n' > debian/tmp/usr/lib/systemd/system/sample.service
	printf '0 3 * * * root /usr/bin/sample\n' > debian/tmp/etc/cron.d/sample
	printf '#!/bin/sh\nset -e\nexit 0\n' > debian/tmp/DEBIAN/postinst; chmod 755 debian/tmp/DEBIAN/postinst
	chown -R 0:0 debian/tmp
	dpkg-gencontrol -Pdebian/tmp
	dpkg-deb --build debian/tmp ..
clean:
	rm -rf debian/tmp
MK
chmod +x debian/rules
echo note > notes
dpkg-buildpackage -us -uc -b -d
dpkg-deb -c ../sample_1.0_all.deb
mkdir -p /tmp/root/var/lib/dpkg/{info,updates} && touch /tmp/root/var/lib/dpkg/status
dpkg --root=/tmp/root --force-all -i ../sample_1.0_all.deb || true
