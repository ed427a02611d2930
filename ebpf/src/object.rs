//! What every kernel object needs besides its programs: the license, and what happens on a panic, of which the verifier
//! lets none come.

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs use the helpers these need; Apache-2.0 text, dual-licensed for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
