//! An event that matches nothing costs no memory: the matcher works in its scratch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use staghound_engine::compile::Scratch;
use staghound_engine::event::{Event, EventKind, Value};
use staghound_engine::field::{Field, FieldRef};
use staghound_engine::memory::Memory;
use staghound_engine::ruleset::load;
use staghound_engine::source::Source;

/// Counts what the system's allocator is asked for.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A compiler that reads a header.
struct Quiet;

impl Event for Quiet {
    fn kind(&self) -> EventKind {
        EventKind::Open
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let found = [
            (Field::EvtType, Value::from("openat")),
            (Field::ProcName, Value::from("cc1")),
            (Field::FdName, Value::from("/usr/include/stdio.h")),
            (Field::ProcCmdline, Value::from("cc1 -quiet main.c")),
            (Field::EvtIsOpenRead, Value::Flag(true)),
        ];
        found
            .into_iter()
            .find(|(known, _)| *known == field.field)
            .map(|(_, value)| value)
    }
}

#[test]
fn an_event_that_matches_nothing_allocates_nothing() {
    let conditions = [
        "evt.type = openat and fd.name startswith /etc/",
        "fd.name regex \".*/id_[a-z0-9]+\" and proc.name != ssh",
        "fd.name glob \"/home/*/.ssh/*\"",
        "tolower(proc.name) = python and evt.is_open_read = true",
        "proc.cmdline contains anyof (secret, token, password)",
        "proc.aname in (sshd) or fd.name pmatch (/root, /srv)",
        "proc.name = val(proc.pname)",
        "not proc.name = cc1",
    ];
    let mut text = String::new();
    for (index, condition) in conditions.iter().enumerate() {
        text.push_str(&format!(
            "- rule: r{index}\n  desc: d\n  condition: '{condition}'\n  output: o\n  priority: ERROR\n"
        ));
    }
    text.push_str(concat!(
        "- rule: s\n  desc: d\n  output: o\n  priority: ERROR\n",
        "  sequence: {steps: [\"proc.name = sh\", {rule: r0}], within: 60s, by: lineage}\n",
        "- rule: t\n  desc: d\n  output: o\n  priority: ERROR\n",
        "  condition: fd.name startswith /etc/\n  threshold: {count: 3, within: 60s, by: process}\n",
    ));
    let ruleset = load(&[Source {
        name: "t.yaml",
        text: &text,
    }])
    .unwrap()
    .ruleset;
    assert_eq!(ruleset.rules().len(), conditions.len() + 2);
    let mut scratch = Scratch::new();
    let mut memory = Memory::<()>::default();
    let mut run = || {
        let mut found = 0;
        ruleset.matches(&Quiet, &mut scratch, &mut |_| found += 1);
        ruleset.follow(&Quiet, &mut scratch, &mut memory, &mut || (), &mut |_| found += 1);
        assert_eq!(found, 0);
    };
    // The scratch and the caches of regular expressions grow once.
    run();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..1000 {
        run();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
