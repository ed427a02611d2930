#!/bin/bash
# A configure script with hundreds of short programs, then a parallel build, its tests and an installation.
cat > configure <<'SH'
#!/bin/sh
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    echo "int main(void) { return $number; }" > conftest.c
    gcc -o conftest conftest.c && ./conftest
    rm -f conftest conftest.c
    expr $number + 1 > /dev/null; uname -a > /dev/null; hostname > /dev/null; id -u > /dev/null
    echo "#define HAVE_$number 1" | sed -e 's/1/2/' >> config.h
done
echo "$0" | sed 's,x,y,' | sh -c 'cat > /dev/null'
SH
chmod +x configure
./configure
for number in 1 2 3 4; do echo "int f$number(void) { return $number; }" > f$number.c; done
echo 'int f1(void); int main(void) { return f1() - 1; }' > main.c
printf 'CFLAGS=-O2\nprog: main.o f1.o f2.o f3.o f4.o\n\t$(CC) -o $@ $^\ncheck: prog\n\t./prog\ninstall: prog\n\tinstall -D -m 755 prog $(DESTDIR)/usr/bin/prog\n\tln -sf prog $(DESTDIR)/usr/bin/prog2\nclean:\n\trm -f *.o prog\n' > Makefile
make -j2
make check
make install DESTDIR=/tmp/stage
strip /tmp/stage/usr/bin/prog
tar czf /tmp/prog.tar.gz -C /tmp/stage .
make clean
