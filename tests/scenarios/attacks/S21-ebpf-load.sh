#!/bin/bash
# Models IronWorm (2026-06): a program that came with a package loads a BPF program.
# must: stealth/bpf-load-by-dependency | stealth/bpf-load-by-unknown
# gate: fail
cat > /tmp/load.c <<'C'
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    struct bpf_insn program[] = {{0xb7, 0, 0, 0, 0}, {0x95, 0, 0, 0, 0}};
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attributes.insns = (__u64)program;
    attributes.insn_cnt = 2;
    attributes.license = (__u64) "GPL";
    int descriptor = syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
    printf("%d\n", descriptor);
    return descriptor < 0;
}
C
gcc -o /tmp/ironworm /tmp/load.c && /tmp/ironworm
