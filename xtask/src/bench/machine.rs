//! Cores, CPU time and memory, as Linux tells them: sched(7), proc(5).

use std::{fs, io};

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::BenchError;

/// Linear memories of WebAssembly modules lie in front of address space that V8 keeps unreachable, so that no access needs a check.
const GUARD_BYTES: u64 = 2 << 30;

/// Who runs where.
pub(super) struct Cores {
    /// Where the measured worker is alone.
    measured: usize,
    other: usize,
}

impl Cores {
    /// Moves this thread, and whatever it starts from now on, to the second core that it may use; the first one is for the worker.
    pub(super) fn claim() -> Result<Self, BenchError> {
        let fail = |source: rustix::io::Errno| BenchError::io("move to another core")(source.into());
        let usable = sched_getaffinity(None).map_err(fail)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| usable.is_set(*core));
        let (Some(measured), Some(other)) = (usable.next(), usable.next()) else { return Err(BenchError::OneCore) };
        sched_setaffinity(None, &only(other)).map_err(fail)?;
        Ok(Self { measured, other })
    }

    /// Starts a program whose threads are all on the core that is kept free for it, which is the only one that it sees.
    pub(super) fn start_alone<T>(&self, start: impl FnOnce() -> T) -> Result<T, BenchError> {
        let fail = |source: rustix::io::Errno| BenchError::io("move to another core")(source.into());
        sched_setaffinity(None, &only(self.measured)).map_err(fail)?;
        let started = start();
        sched_setaffinity(None, &only(self.other)).map_err(fail)?;
        Ok(started)
    }

    /// Moves a thread to the core that is kept free for it.
    pub(super) fn pin(&self, thread: Thread) -> Result<(), BenchError> {
        let id = i32::try_from(thread.id).ok().and_then(Pid::from_raw);
        sched_setaffinity(id, &only(self.measured)).map_err(|error| BenchError::io("pin the worker")(error.into()))
    }
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// A thread of another process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thread {
    process: u32,
    id: u32,
}

impl Thread {
    /// The thread of this name, if the process has it.
    pub(super) fn find(process: u32, name: &str) -> io::Result<Option<Self>> {
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
            // It may have ended since it was listed.
            let is_it = fs::read_to_string(entry.path().join("comm")).is_ok_and(|found| found.trim_end() == name);
            if let (true, Some(id)) = (is_it, id) {
                return Ok(Some(Self { process, id }));
            }
        }
        Ok(None)
    }

    /// Nanoseconds that it has run.
    pub(super) fn cpu_ns(self) -> io::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/task/{}/schedstat", self.process, self.id))?;
        stat.split(' ').next().and_then(|ns| ns.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Seconds that the process and its ended threads have run, in user and kernel mode.
pub(super) fn cpu_s(process: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which is in parentheses: fields 14 and 15, in ticks.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Bytes that the process has in memory, from its status: `VmRSS` now, `VmHWM` at most so far.
pub(super) fn resident_bytes(process: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib * 1024).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Bytes of all linear memories of WebAssembly modules in the process.
pub(super) fn wasm_bytes(process: u32) -> io::Result<u64> {
    Ok(linear_memories(&fs::read_to_string(format!("/proc/{process}/maps"))?))
}

fn linear_memories(maps: &str) -> u64 {
    let mappings: Vec<_> = maps.lines().filter_map(mapping).collect();
    let memories = mappings.windows(2).filter_map(|pair| {
        let [(start, end, is_writable), (guard_start, guard_end, is_guard_writable)] = pair else { return None };
        let is_guarded = end == guard_start && !is_guard_writable && guard_end - guard_start >= GUARD_BYTES;
        (*is_writable && is_guarded).then_some(end - start)
    });
    memories.sum()
}

/// Start, end and whether it can be written to.
fn mapping(line: &str) -> Option<(u64, u64, bool)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?, rest.starts_with("rw")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_memories_are_known_by_the_guard_behind_them() {
        let maps = "1000-3000 rw-p 00000000 00:00 0 \n\
                    10000000-10050000 rw-p 00000000 00:00 0 \n\
                    10050000-290050000 ---p 00000000 00:00 0 \n\
                    7f0000000000-7f0000001000 rw-p 00000000 00:00 0  [stack]\n\
                    7f0000001000-7f0000002000 ---p 00000000 00:00 0 \n";
        assert_eq!(linear_memories(maps), 0x50000);
    }

    #[test]
    fn a_process_has_time_memory_and_threads() {
        let own = std::process::id();
        assert!(resident_bytes(own, "VmHWM").unwrap() >= 1 << 20);
        assert!(cpu_s(own).unwrap() < 3600.0);
        assert_eq!(wasm_bytes(own).unwrap(), 0);
        let name = fs::read_to_string(format!("/proc/{own}/comm")).unwrap();
        let main = Thread::find(own, name.trim_end()).unwrap().unwrap();
        assert!(main.cpu_ns().unwrap() > 0);
        assert!(Thread::find(own, "no such thread").unwrap().is_none());
    }
}
