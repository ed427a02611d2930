//! The thin binary around the library.

use std::process::ExitCode;

/// Most arenas that threads allocate from: two keep threads out of each other's way.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

fn main() -> ExitCode {
    share_arenas();
    staghound_collector::cli::main()
}

/// The C library gives each new thread an arena of its own, up to eight for each processor, and what one has freed is of no
/// use to the others: memory would grow with every thread that has ever worked.
fn share_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number; no other thread runs yet that could be allocating.
    let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
}
