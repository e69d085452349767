//! Signals to processes and the children of one, without programs of the machine (`kill`, `pgrep`): not every machine
//! has them.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, kill_process, kill_process_group};

pub use rustix::process::Signal;

/// Sends to one process; false: it is gone. A process that has ended and was not waited for is still there.
pub fn signal(process: u32, signal: Signal) -> bool {
    delivered(kill_process(pid(process), signal))
}

/// Sends to every process of the group that this one leads; false: nobody is left in it.
pub fn signal_group(leader: u32, signal: Signal) -> bool {
    delivered(kill_process_group(pid(leader), signal))
}

/// The processes that this one has started and that still run, in no order.
pub fn children(parent: u32) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|process| parent_of(*process) == Some(parent))
        .collect()
}

/// None where it ended meanwhile, or is a zombie. See proc_pid_stat(5).
fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    // The name of the program is in parentheses, and may hold some and blanks, too.
    let (_, rest) = stat.as_deref().ok()?.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let runs = fields.next()? != "Z";
    let parent = fields.next()?.parse().ok()?;
    runs.then_some(parent)
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(i32::try_from(process).unwrap()).unwrap()
}

fn delivered(sent: rustix::io::Result<()>) -> bool {
    match sent {
        Ok(()) => true,
        Err(Errno::SRCH) => false,
        Err(error) => panic!("cannot send a signal: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("600").process_group(0).spawn().unwrap()
    }

    #[test]
    fn a_signal_reaches_the_process_or_its_group_until_it_was_waited_for() {
        for send in [signal, signal_group] {
            let mut child = sleeper();
            assert!(children(std::process::id()).contains(&child.id()));
            assert!(send(child.id(), Signal::TERM));
            assert_eq!(
                child.wait().unwrap().signal(),
                Some(Signal::TERM.as_raw()),
                "by the signal and nothing else"
            );
            assert!(!send(child.id(), Signal::TERM));
            assert!(!children(std::process::id()).contains(&child.id()));
        }
    }
}
