#!/bin/bash
# Files packed, copied, compared, encrypted and removed.
mkdir -p data && for number in $(seq 300); do echo "$number" > data/$number; done
tar czf /tmp/data.tar.gz data && tar xzf /tmp/data.tar.gz -C /tmp && diff -r data /tmp/data
xz -k -c /tmp/data.tar.gz > /tmp/data.xz && xz -dc /tmp/data.xz | tar tzf - > /dev/null
gzip -c data/1 | gzip -dc | cmp - data/1
base64 data/1 | base64 -d | cmp - data/1
zip -qr /tmp/data.zip data || true
cp -a data /tmp/copy && rm -rf /tmp/copy
find data -type f -print0 | xargs -0 sha256sum > /tmp/sums && sha256sum -c --quiet /tmp/sums
openssl rand -hex 16 > /dev/null && openssl dgst -sha256 data/1
openssl req -x509 -newkey rsa:2048 -nodes -keyout /tmp/key.pem -out /tmp/cert.pem -subj /CN=localhost -days 1 2> /dev/null
find data -name '1*' -delete; rm -rf data
sed -i 's/a/b/' /tmp/sums; sort /tmp/sums | uniq -c | awk '{print $2}' | head -5
