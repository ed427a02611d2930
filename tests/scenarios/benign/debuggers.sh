#!/bin/bash
# A program traced, debugged and profiled by those who built it.
echo '#include <unistd.h>
int main(void) { for (int i = 0; i < 3; i++) getppid(); return 0; }' > a.c
gcc -g -o a a.c
strace -f -o /tmp/strace.out ./a
strace -c ls > /dev/null 2>&1
gdb -batch -ex 'break main' -ex run -ex bt -ex 'info registers' -ex continue ./a
sleep 3 & pid=$!
gdb -batch -p $pid -ex bt > /dev/null 2>&1
cat /proc/$pid/status /proc/$pid/maps > /dev/null
ps auxe > /dev/null; ps -ef > /dev/null; top -bn1 > /dev/null; pgrep sleep > /dev/null; lsof -p $pid > /dev/null 2>&1; ss -tanp > /dev/null 2>&1
kill $pid
ldd ./a; nm ./a > /dev/null; objdump -d ./a > /dev/null; readelf -a ./a > /dev/null
