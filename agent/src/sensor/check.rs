//! Whether what the agent put into the kernel is still as it was put there, and putting it right.

use std::{fmt, os::fd::AsFd as _};

use staghound_ebpf::SYSCALLS_MAX;

use crate::sensor::{AGENT_PID, GENERATION, Sensor, bpf, load, pin::Pins};

/// Something of the sensor that somebody else changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// What was changed, such as `link of process_exec` or `map SYSCALLS`.
    pub what: String,
    /// What was found.
    pub found: String,
    /// Whether it is as it was again; if not, why.
    pub repaired: Result<(), String>,
}

impl fmt::Display for Tampering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; ", self.what, self.found)?;
        match &self.repaired {
            Ok(()) => f.write_str("repaired"),
            Err(reason) => write!(f, "cannot be repaired: {reason}"),
        }
    }
}

impl Sensor {
    /// Looks at everything that the agent put into the kernel and that must not change; repairs what it can. Takes about
    /// a fifth of a millisecond, so once a second costs nothing. After [`Self::detach`] there is nothing to look at.
    pub fn check(&mut self) -> Vec<Tampering> {
        let mut found = Vec::new();
        if !self.running.is_empty() {
            self.check_links(&mut found);
            self.check_actions(&mut found);
            self.check_syscalls(&mut found);
            self.check_opens(&mut found);
            self.check_agent(&mut found);
            for (path, what, repaired) in self.pins.iter().flat_map(Pins::check) {
                found.push(Tampering {
                    what: format!("pin {}", path.display()),
                    found: what,
                    repaired,
                });
            }
        }
        found
    }

    fn check_links(&mut self, tamperings: &mut Vec<Tampering>) {
        let family = self.family;
        for running in &mut self.running {
            let Some(link) = &running.link else { continue };
            let found = match link.program() {
                Ok(None) => continue,
                Ok(Some(program)) if program == running.id => continue,
                Ok(Some(0)) => "it was detached".to_owned(),
                Ok(Some(program)) => format!("it attaches program {program} instead of {}", running.id),
                Err(error) => format!("it is gone: {error}"),
            };
            let repaired =
                load::attach_as(running.name, &running.program, family).map(|link| running.link = Some(link));
            tamperings.push(Tampering {
                what: format!("link of {}", running.name),
                found,
                repaired: repaired.map_err(|error| error.to_string()),
            });
        }
    }

    fn check_actions(&self, tamperings: &mut Vec<Tampering>) {
        let Some(actions) = &self.actions else { return };
        for running in &self.running {
            for action in running.actions {
                let action = *action as u32;
                let found = match bpf::program_in(actions.as_fd(), action) {
                    Ok(Some(program)) if program == running.id => continue,
                    Ok(Some(program)) => format!("element {action} holds program {program} instead of {}", running.id),
                    Ok(None) => format!("element {action} holds no program"),
                    Err(error) => format!("element {action} cannot be read: {error}"),
                };
                let repaired = bpf::put_program(actions.as_fd(), action, running.program.as_fd());
                tamperings.push(Tampering {
                    what: format!("map {}", self.family.actions()),
                    found,
                    repaired: repaired.map_err(|error| error.to_string()),
                });
            }
        }
    }

    fn check_syscalls(&mut self, tamperings: &mut Vec<Tampering>) {
        let mut values = [0_u32; SYSCALLS_MAX];
        let found = match bpf::read_array(self.syscalls.as_fd(), &mut values) {
            Ok(()) => match differing(&values, self.tables.actions()) {
                0 => return,
                count => format!("{count} elements were changed"),
            },
            Err(error) => format!("it cannot be read: {error}"),
        };
        tamperings.push(Tampering {
            what: "map SYSCALLS".to_owned(),
            found,
            repaired: self.tables.tell_again().map_err(|error| error.to_string()),
        });
    }

    fn check_opens(&mut self, tamperings: &mut Vec<Tampering>) {
        let found = match self.tables.opens_changed() {
            Ok(0) => return,
            Ok(count) => format!("{count} elements were changed"),
            Err(error) => error.to_string(),
        };
        tamperings.push(Tampering {
            what: "maps OPEN_WANTED and WANTED_NAMES".to_owned(),
            found,
            repaired: self.tables.tell_again().map_err(|error| error.to_string()),
        });
    }

    fn check_agent(&mut self, tamperings: &mut Vec<Tampering>) {
        for (element, name, expected) in [
            (AGENT_PID, "the agent's process", std::process::id()),
            (GENERATION, "the generation of programs", self.generation),
        ] {
            let found = match self.agent.get(&element, 0) {
                Ok(value) if value == expected => continue,
                Ok(value) => format!("{name} is {value} instead of {expected}"),
                Err(error) => format!("{name} cannot be read: {error}"),
            };
            tamperings.push(Tampering {
                what: "map AGENT".to_owned(),
                found,
                repaired: self.agent.set(element, expected, 0).map_err(|error| error.to_string()),
            });
        }
    }
}

fn differing(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).filter(|(left, right)| left != right).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::SensorConfig;
    use aya::maps::{Array, Map, MapData};

    /// A sensor that reports nothing, since nothing is in its scope.
    fn sensor() -> Sensor {
        let config = SensorConfig {
            scoped: true,
            ..SensorConfig::default()
        };
        Sensor::start(&config).unwrap()
    }

    /// The same map by another way, as somebody else would open it.
    fn opened(descriptor: &impl std::os::fd::AsFd) -> Array<MapData, u32> {
        let data = MapData::from_fd(descriptor.as_fd().try_clone_to_owned().unwrap()).unwrap();
        Map::from_map_data(data).unwrap().try_into().unwrap()
    }

    #[test]
    fn tampering_is_noticed_and_repaired() {
        let mut sensor = sensor();
        assert_eq!(sensor.check(), []);
        let openat = 257;
        opened(&sensor.syscalls).set(openat, 0, 0).unwrap();
        let found = sensor.check();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "map SYSCALLS: 1 elements were changed; repaired");
        assert_eq!(sensor.check(), []);

        let agent = sensor.agent.get(&AGENT_PID, 0).unwrap();
        sensor.agent.set(AGENT_PID, agent + 1, 0).unwrap();
        sensor.agent.set(GENERATION, 77, 0).unwrap();
        let found = sensor.check();
        assert_eq!(found.len(), 2);
        assert!(
            found[1].found.contains("the generation of programs is 77"),
            "{}",
            found[1]
        );
        assert_eq!(sensor.check(), []);

        let [one, other] = ["process_chdir", "file_open"]
            .map(|name| sensor.running.iter().position(|running| running.name == name).unwrap());
        let actions = sensor.actions.as_ref().unwrap();
        let action = sensor.running[one].actions[0] as u32;
        bpf::put_program(actions.as_fd(), action, sensor.running[other].program.as_fd()).unwrap();
        let found = sensor.check();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].found.contains("instead of") && found[0].repaired.is_ok(),
            "{}",
            found[0]
        );
        assert_eq!(sensor.check(), []);
    }

    #[test]
    fn a_link_that_is_gone_is_attached_again() {
        let mut sensor = sensor();
        let exit = sensor
            .running
            .iter_mut()
            .find(|running| running.name == "process_exit")
            .unwrap();
        // What closing the descriptor in the agent by ptrace would leave: something else under its number.
        let (reader, _writer) = std::io::pipe().unwrap();
        exit.link = Some(bpf::Link::Object(reader.into()));
        let found = sensor.check();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "link of process_exit");
        assert!(found[0].repaired.is_ok(), "{}", found[0]);
        assert_eq!(sensor.check(), []);
        sensor.detach();
        assert_eq!(sensor.check(), []);
    }
}
