//! How the C library keeps the memory that nobody uses.

/// Lets all threads allocate from one arena. The agent has few threads, of which one allocates much while it starts and
/// hardly ever after; with an arena for each, what that one gave back would be of no use to the others: 6 MB of 22.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number; no other thread runs yet that could be allocating.
    let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives the kernel back what was freed: the start needs more memory than what comes after.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers, and locks what it looks at.
    let _given = unsafe { libc::malloc_trim(0) };
}
