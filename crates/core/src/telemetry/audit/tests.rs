//! Tests of the writer of the audit log.

use super::*;

#[test]
fn every_line_reaches_the_file_even_after_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let writer = AuditWriter::to_file(&path).unwrap();
    let sinks = [writer.sink(), writer.sink()];
    for number in 0..500 {
        sinks[number % 2].write(&number);
    }
    drop(writer);
    let mut numbers: Vec<usize> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());

    let writer = AuditWriter::to_file(&path).unwrap();
    let sink = writer.sink();
    std::fs::rename(&path, directory.path().join("audit.log.1")).unwrap();
    sink.write(&"after rotation");
    drop(writer);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "\"after rotation\"\n"
    );
}

#[test]
fn lines_that_are_lost_are_counted_and_the_log_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let (logs, away) = (directory.path().join("logs"), directory.path().join("away"));
    std::fs::create_dir(&logs).unwrap();
    let path = logs.join("audit.log");
    let writer = AuditWriter::to_file(&path).unwrap();
    let sink = writer.sink();
    let wait_for = |what: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(10));
        }
    };
    std::fs::rename(&logs, &away).unwrap();
    let long = "x".repeat(1 << 20);
    sink.write(&long);
    wait_for(&|| writer.health().problem().is_some());
    let mut count = 1_u64;
    while writer.health().counts().lost == 0 {
        assert!(count < 100, "memory for lines is bounded");
        sink.write(&long);
        count += 1;
    }
    std::fs::rename(&away, &logs).unwrap();
    // The writer and the buffer lose lines separately, so the log may report them in two lines.
    let told = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let gaps = text.lines().filter_map(|line| line.split_once("\"lost\":"));
        let told: u64 = gaps
            .map(|(_, lost)| lost.trim_end_matches('}').parse::<u64>().unwrap())
            .sum();
        let kept = text.lines().filter(|line| line.contains("xxx")).count();
        (told, told + u64::try_from(kept).unwrap())
    };
    wait_for(&|| told().1 == count);
    assert_eq!(told().0, writer.health().counts().lost);
    // Lost lines remain a problem for a minute.
    let problem = writer.health().problem().unwrap();
    assert!(problem.detail.contains("fast enough"), "{problem:?}");
}

/// A writer that accepts a number of bytes and then fails, like a full disk.
struct Full {
    taken: Vec<u8>,
    room: usize,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= count;
        self.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number of lost lines that the log reports must be right, whatever part of the line that
/// reports them fits onto the disk at first.
#[test]
fn lost_lines_are_reported_once_when_the_log_can_be_written_again() {
    let count = 7_u64;
    let empty = Gap {
        time: timestamp(clock::since_epoch()),
        event: "gap",
        lost: count,
    };
    let length = serde_json::to_string(&empty).unwrap().len() + 1;
    for room in 0..=length {
        let health = AuditHealth::of(None);
        let mut lines = PendingLines::default();
        let mut disk = Full {
            taken: Vec::new(),
            room: 0,
        };
        health.record_lost(count);
        let mut write_all = |room: usize, line: &str| {
            disk.room = room;
            lines.batch.bytes.extend_from_slice(line.as_bytes());
            lines.write_all(&health, |batch| batch.write_to(&mut disk))
        };
        assert!(!write_all(0, ""));
        assert_eq!(health.unreported(), count);
        assert_eq!(write_all(room, ""), room == length, "{room}");
        assert_eq!(health.has_failure(), room < length, "{room}");
        assert!(write_all(usize::MAX, "next\n"), "{room}");
        assert!(write_all(usize::MAX, ""), "{room}");
        assert_eq!(health.counts().lost, count, "{room}");
        assert_eq!(health.unreported(), 0, "{room}");
        let text = String::from_utf8(disk.taken).unwrap();
        let gaps: Vec<&str> = text.lines().filter(|line| *line != "next").collect();
        assert_eq!(gaps.len(), 1, "{text}");
        let gap: serde_json::Value = serde_json::from_str(gaps[0]).unwrap();
        assert_eq!(gap["lost"], count, "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}

#[test]
fn a_failure_lasts_when_all_lines_that_waited_are_lost() {
    let health = AuditHealth::of(None);
    let mut lines = PendingLines::default();
    let bulk = || std::iter::repeat_n(b'x', MAX_BUFFERED).chain(*b"\n");
    let mut full = |more: &mut dyn Iterator<Item = u8>| {
        lines.batch.bytes.extend(more);
        lines.write_all(&health, |batch| match batch.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        })
    };
    assert!(!full(&mut bulk()));
    assert_eq!(health.unreported(), 1);
    // No line waits now, but the log still cannot be written.
    assert!(!full(&mut std::iter::empty()));
    assert!(health.has_failure());
    assert!(!full(&mut bulk()));
    assert_eq!((health.unreported(), health.counts().lost), (2, 2));
}

/// If flushing fails, no line waits, and no line reports a gap. The failure must end anyway.
#[test]
fn a_failure_that_left_no_line_ends_with_the_next_attempt() {
    let health = AuditHealth::of(None);
    let mut lines = PendingLines::default();
    let refuse = |batch: &mut Batch| {
        batch.bytes.clear();
        Err(io::ErrorKind::StorageFull.into())
    };
    lines.batch.bytes.extend_from_slice(b"first\n");
    assert!(!lines.write_all(&health, refuse));
    assert!(!lines.write_all(&health, refuse));
    assert!(health.problem().is_some());
    assert!(lines.write_all(&health, |_| Ok(())));
    assert_eq!(health.problem(), None);
}

#[test]
fn after_a_full_disk_no_line_stands_twice_or_in_half() {
    let lines = b"first\nsecond\nthird\n";
    for room in 0..=lines.len() {
        let mut disk = Full {
            taken: Vec::new(),
            room,
        };
        let mut batch = Batch::default();
        batch.bytes.extend_from_slice(lines);
        assert_eq!(batch.write_to(&mut disk).is_ok(), room == lines.len());
        let begun = batch.written;
        let mut same = Batch {
            bytes: batch.bytes.clone(),
            written: begun,
        };
        disk.room = usize::MAX;
        same.bytes.extend_from_slice(b"fourth\n");
        same.write_to(&mut disk).unwrap();
        assert_eq!(disk.taken, b"first\nsecond\nthird\nfourth\n", "{room}");

        // A part of a line is already in the log. `drop_unwritten` keeps the rest of this line.
        let mut disk = Full {
            taken: lines[..room].to_vec(),
            room: usize::MAX,
        };
        batch.drop_unwritten();
        batch.write_to(&mut disk).unwrap();
        assert!(
            disk.taken.is_empty() || disk.taken.ends_with(b"\n"),
            "{room}"
        );
    }
}

#[test]
fn timestamps_have_milliseconds() {
    assert_eq!(
        timestamp(Duration::from_millis(1_007)),
        "1970-01-01T00:00:01.007Z"
    );
    for moment in [1_007, 1_999, 86_400_000, 1_000] {
        let moment = Duration::from_millis(moment);
        let mut line = String::new();
        push_timestamp(&mut line, moment);
        assert_eq!(line, format!("\"{}\"", timestamp(moment)));
    }
}
