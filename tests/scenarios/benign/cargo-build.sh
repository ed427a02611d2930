#!/bin/bash
# A crate with a build script that compiles C, built, tested, and documented.
export PATH=/root/.cargo/bin:$PATH RUSTUP_HOME=/root/.rustup CARGO_NET_OFFLINE=true
mkdir -p src tests
cat > Cargo.toml <<'TOML'
[package]
name = "sample"
version = "0.1.0"
edition = "2021"
build = "build.rs"
TOML
cat > build.rs <<'RS'
use std::process::Command;
fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    Command::new("gcc").args(["-c", "-o", &format!("{out}/c.o"), "c.c"]).status().unwrap();
    Command::new("ar").args(["rcs", &format!("{out}/libc_part.a"), &format!("{out}/c.o")]).status().unwrap();
    println!("cargo:rustc-link-search={out}");
    println!("cargo:rustc-link-lib=static=c_part");
    let _ = Command::new("git").args(["rev-parse", "HEAD"]).output();
    println!("cargo:rerun-if-changed=c.c");
}
RS
echo 'int part(void) { return 7; }' > c.c
cat > src/main.rs <<'RS'
extern "C" { fn part() -> i32; }
fn main() { println!("{}", unsafe { part() }); }
#[test] fn it() { assert_eq!(unsafe { part() }, 7); std::net::TcpListener::bind("127.0.0.1:0").unwrap(); }
RS
cargo build
cargo test
cargo run
CARGO_TARGET_DIR=/tmp/target cargo test
