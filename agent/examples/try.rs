use staghound::sensor::*;
use std::time::*;
fn main() {
    let t = Instant::now();
    let without = std::env::args().skip(1).collect();
    let mut s = Sensor::start(&SensorConfig {
        without,
        ..Default::default()
    })
    .unwrap();
    println!("started in {:?}", t.elapsed());
    for o in s.outcomes() {
        println!("{o} {:?}", o.verified_instructions);
    }
    let end = Instant::now() + Duration::from_secs(3);
    let mut n = 0;
    while Instant::now() < end {
        s.wait(Duration::from_millis(100));
        s.drain(10000, |r| {
            n += 1;
            if n < 60 {
                let r = decode::decode(r).unwrap();
                let mut p = vec![];
                match r.body {
                    decode::Body::Open(o) => r.walked_path(o.path, &mut p),
                    decode::Body::Exec(e) => {
                        r.walked_path(e.executable, &mut p);
                        p.extend(b" | ");
                        p.extend(r.bytes(e.args));
                        p.extend(b" | ");
                        p.extend(r.bytes(e.env));
                        p.extend(b" | cwd ");
                        r.walked_path(e.cwd, &mut p);
                    }
                    decode::Body::Unlink(o) | decode::Body::Chmod(o) => p = r.passed_path(o.base, o.name),
                    _ => {}
                }
                println!(
                    "{} {} {:?} {}",
                    r.header.pid,
                    String::from_utf8_lossy(&r.header.comm),
                    r.body,
                    String::from_utf8_lossy(&p)
                );
            }
        });
    }
    println!("{n} records; {:?}", s.losses().unwrap());
}
