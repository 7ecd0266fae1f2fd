use std::fs;

use super::*;

fn lake(folder: &std::path::Path, durability: Durability) -> Lake {
    Lake::open(folder.to_str().unwrap(), &LakeOptions { durability, ..LakeOptions::default() }).unwrap()
}

fn reason(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_put_is_there() {
    for durability in [Durability::Disk, Durability::Process] {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(&folder.path().join("a/b"), durability);
        let path = "silver/events/date=2024-01-01/event_type=a%2Fb%20ä/p-0000-0000000000-0000.parquet";
        assert_eq!(lake.get(path).unwrap(), None);
        lake.put(path, "one".into()).unwrap();
        lake.put(path, "two".into()).unwrap();
        assert_eq!(lake.get(path).unwrap().unwrap(), "two");
        assert_eq!(fs::read(lake.local_path(path).unwrap()).unwrap(), b"two");
        let listed = lake.list("silver", None).unwrap();
        assert_eq!(listed.iter().map(|o| (o.path.as_str(), o.size)).collect::<Vec<_>>(), [(path, 3)]);
        assert!(listed[0].modified_us > 1_600_000_000_000_000);
        lake.trash(path).unwrap();
        lake.trash(path).unwrap();
        assert_eq!(lake.get(path).unwrap(), None);
        assert_eq!(lake.get(&layout::trash(path)).unwrap().unwrap(), "two");
        lake.delete(&layout::trash(path)).unwrap();
        lake.delete(&layout::trash(path)).unwrap();
        assert_eq!(lake.list("", None).unwrap(), []);
    }
}

#[test]
fn of_many_writers_one_creates() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(folder.path(), Durability::Process);
    let created = std::thread::scope(|scope| {
        let lake = &lake;
        let threads: Vec<_> = (0..8)
            .map(|i| scope.spawn(move || lake.put_if_absent("_penstock/p/x", format!("writer {i}").into()).unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).filter(|p| *p == Put::Created).count()
    });
    assert_eq!(created, 1);
    assert!(lake.get("_penstock/p/x").unwrap().unwrap().starts_with(b"writer "));
    assert_eq!(lake.list("", None).unwrap().len(), 1);
}

#[test]
fn many_files_at_once_and_lists_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(folder.path(), Durability::Disk);
    let files: Vec<_> = (0..50).map(|n| (layout::commit("p", n), Bytes::from(n.to_string()))).collect();
    lake.put_many(files.iter().cloned().map(|(path, bytes)| (path, bytes.into())).collect()).unwrap();
    let listed = lake.list("_penstock/p/epochs", Some(&layout::commit("p", 47))).unwrap();
    assert_eq!(listed.iter().filter_map(|o| layout::number(&o.path)).collect::<Vec<_>>(), [48, 49]);
    let all = lake.list("", None).unwrap();
    assert!(all.is_sorted_by(|a, b| a.path < b.path));
    assert_eq!(all.len(), 50);
    for (path, bytes) in files {
        assert_eq!(lake.get(&path).unwrap().unwrap(), bytes);
    }
    assert_eq!(lake.list("nothing/here", None).unwrap(), []);
}

#[test]
fn paths_out_of_the_lake_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(folder.path(), Durability::Process);
    for path in ["../x", "/x", "a/../../x", ""] {
        assert!(lake.put(path, Bytes::new()).is_err(), "{path}");
        assert!(lake.get(path).is_err() && lake.delete(path).is_err() && lake.trash(path).is_err());
    }
}

#[test]
fn a_place_that_is_no_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let open = |path: &std::path::Path| Lake::open(path.to_str().unwrap(), &LakeOptions::default());
    assert!(reason(open(&file)).contains("is a file"));
    assert!(reason(open(&file.join("below"))).contains("not a folder"));
    let read = LakeOptions { create: false, ..LakeOptions::default() };
    assert!(reason(Lake::open(folder.path().join("none").to_str().unwrap(), &read)).contains("no such folder"));
    assert!(reason(Lake::open("gs://x", &read)).contains("s3://"));
    assert!(reason(Lake::open("", &read)).contains("name a folder"));
    // A file where a layer should be, and a folder where a file should be.
    let lake = lake(folder.path(), Durability::Disk);
    assert!(reason(lake.put("file/date=x/y", Bytes::new())).contains("not a folder"));
    fs::create_dir(folder.path().join("taken")).unwrap();
    assert!(reason(lake.put("taken", Bytes::new())).contains("folder"));
    assert_eq!(lake.put_if_absent("taken", Bytes::new()).unwrap(), Put::Exists);
}

#[test]
fn refusals_of_the_system_say_what_to_do() {
    for (code, words) in
        [(28, "disk is full"), (30, "read-only"), (13, "permission"), (122, "quota"), (36, "name that long")]
    {
        let error = local::io_error("silver/x", "cannot be written", &std::io::Error::from_raw_os_error(code));
        assert!(error.to_string().starts_with("lake silver/x: cannot be written: "), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_a_dead_writer_left_goes() {
    let folder = tempfile::tempdir().unwrap();
    let staging = folder.path().join(layout::STAGING);
    fs::create_dir_all(staging.join("dead")).unwrap();
    fs::write(staging.join("dead/lock"), "").unwrap();
    fs::write(staging.join("dead/0"), "half").unwrap();
    fs::create_dir_all(staging.join("young")).unwrap();
    let first = lake(folder.path(), Durability::Process);
    assert!(!staging.join("dead").exists() && staging.join("young").exists());
    first.put("a", "1".into()).unwrap();
    // Another opens the lake while the first lives: its folder stays.
    let second = lake(folder.path(), Durability::Process);
    let folders = || fs::read_dir(&staging).unwrap().count();
    assert_eq!(folders(), 2);
    second.put("b", "2".into()).unwrap();
    first.put("c", "3".into()).unwrap();
    assert_eq!(second.list("", None).unwrap().len(), 3);
    drop(second);
    drop(first);
    assert_eq!(folders(), 1);
    fs::remove_dir(staging.join("young")).unwrap();
    lake(folder.path(), Durability::Process).put("a", "1".into()).unwrap();
    assert!(!folder.path().join(layout::CONTROL).exists());
}

#[test]
fn a_lake_works_inside_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(folder.path(), Durability::Process);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        lake.put("a", "1".into()).unwrap();
        assert_eq!(lake.get("a").unwrap().unwrap(), "1");
        assert_eq!(lake.list("", None).unwrap().len(), 1);
        lake.delete("a").unwrap();
    });
}

#[cfg(not(feature = "s3"))]
#[test]
fn without_s3_a_bucket_says_so() {
    assert!(reason(Lake::open("s3://bucket/x", &LakeOptions::default())).contains("S3"));
}

/// A small file system of its own, where this user may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        if disk.mount(options) {
            return Some(disk);
        }
        std::mem::forget(disk);
        eprintln!("SKIPPED: this user cannot mount a small disk to fill");
        None
    }

    fn mount(&self, options: &str) -> bool {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0.path());
        mount.stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_shows_nothing_half_written() {
    let Some(disk) = SmallDisk::new("size=512k") else { return };
    for durability in [Durability::Disk, Durability::Process] {
        let lake = lake(disk.0.path(), durability);
        lake.put("a/fits", vec![1; 100_000].into()).unwrap();
        let large = Bytes::from(vec![2; 600_000]);
        let many = vec![("a/fits".to_owned(), vec![3; 10].into()), ("b/not".to_owned(), large.clone().into())];
        for error in [
            reason(lake.put("a/fits", large.clone())),
            reason(lake.put_if_absent("a/not", large)),
            reason(lake.put_many(many)),
        ] {
            assert!(error.contains("the disk is full") && error.contains("make room"), "{error}");
        }
        let listed: Vec<_> = lake.list("", None).unwrap().into_iter().map(|o| (o.path, o.size)).collect();
        assert_eq!(listed, [("a/fits".to_owned(), 100_000)]);
        // What was begun is gone, so there is room again.
        lake.put("a/other", vec![4; 300_000].into()).unwrap();
        lake.delete("a/other").unwrap();
    }
}

#[test]
fn a_read_only_lake_can_be_read() {
    let Some(disk) = SmallDisk::new("size=512k") else { return };
    lake(disk.0.path(), Durability::Process).put("a/b", "1".into()).unwrap();
    assert!(disk.mount("remount,ro"));
    let lake = lake(disk.0.path(), Durability::Disk);
    assert_eq!(lake.get("a/b").unwrap().unwrap(), "1");
    assert_eq!(lake.list("", None).unwrap().len(), 1);
    for error in [
        reason(lake.put("a/b", "2".into())),
        reason(lake.put_if_absent("a/c", "2".into())),
        reason(lake.trash("a/b")),
        reason(lake.delete("a/b")),
        reason(Lake::open(disk.0.path().join("new").to_str().unwrap(), &LakeOptions::default())),
    ] {
        assert!(error.contains("read-only"), "{error}");
    }
}
