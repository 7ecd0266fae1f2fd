//! A pipeline in a folder of its own, over an hour that is played.

use super::*;

pub(super) const NAME: &str = "shop";

pub(super) const CONTRACT: &str = r#"
name: shop
roles: {event_type: /type, event_time: /at, idempotency_key: /id, entity: /user}
events:
  view:
    v1:
      type: object
      required: [type, at, id, user, amount]
      properties:
        type: {type: string}
        at: {type: string, format: date-time}
        id: {type: string}
        user: {type: string}
        amount: {type: integer, minimum: 0}
"#;

/// A clock that goes on by itself when somebody waits.
pub(super) struct Played(pub(in crate::stream::entries) AtomicI64);

impl Clock for Played {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wait(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

/// A row as text, by column.
pub(super) type Row = BTreeMap<String, String>;

pub(super) type Hook<'a> = Box<dyn FnOnce(&Lake) + Send + 'a>;

/// A lake in which something happens just before an object is put.
pub(super) struct Hooked<'a> {
    pub(super) lake: &'a Lake,
    pub(super) before: String,
    pub(super) hook: Mutex<Option<Hook<'a>>>,
}

impl Store for Hooked<'_> {
    fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        if path.ends_with(&self.before)
            && let Some(hook) = self.hook.lock().unwrap().take()
        {
            hook(self.lake);
        }
        self.lake.put_if_absent(path, bytes)
    }

    fn put_many(&self, objects: Vec<(String, crate::content::Content)>) -> Result<()> {
        self.lake.put_many(objects)
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        self.lake.get(path)
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        self.lake.list(prefix, after)
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.lake.delete(path)
    }
}

/// A pipeline in a folder of its own.
pub(super) struct Shop {
    pub folder: PathBuf,
    pub spec: PipelineSpec,
    pub lake: Lake,
    pub clock: Played,
    pub(super) _held: tempfile::TempDir,
}

impl Shop {
    pub fn new(epoch_events: u64) -> Self {
        let held = tempfile::tempdir().unwrap();
        let folder = held.path().to_owned();
        let minute = 60_000_000i64;
        let spec = serde_json::json!({
            "name": NAME,
            "contract_text": CONTRACT,
            "contract_path": "contract.yaml",
            "source": {"files": {"paths": ["*.jsonl"], "bounded": true, "base_dir": folder}},
            "lake": folder.join("lake"),
            "watermark": {"lateness_us": 10 * minute, "idle_timeout_us": minute, "max_future_skew_us": 5 * minute},
            "deduplicate": {"horizon_us": 24 * 60 * minute},
            "sessions": {"gap_us": 30 * minute},
            "epoch": {"max_events": epoch_events, "max_bytes": 1 << 20, "max_wait_us": 1},
            "durability": "process",
        });
        let spec = PipelineSpec::from_json(&spec.to_string()).unwrap();
        let options = LakeOptions { durability: Durability::Process, ..LakeOptions::default() };
        let lake = Lake::open(&spec.lake, &options).unwrap();
        // Well after the events, and after everything that the file system says.
        let clock = Played(AtomicI64::new(4_000_000_000_000_000));
        Self { folder, spec, lake, clock, _held: held }
    }

    pub fn put(&self, file: &str, lines: &[String]) {
        std::fs::write(self.folder.join(file), lines.join("\n") + "\n").unwrap();
    }

    pub fn run_on(&self, store: &dyn Store, options: &RunOptions) -> Result<Report> {
        let shape = self.spec.shape();
        let contract = contract_of(&self.spec.contract_text, &self.spec.contract_path, &shape)?;
        let paths = vec!["*.jsonl".to_owned()];
        let settings = FilesSettings { base: self.folder.clone(), paths, bounded: true };
        let mut source = Files::new(settings)?;
        let mut runner = Runner::new(store, &self.clock, &self.spec, shape, contract, None, &Unwatched)?;
        runner.run(&mut source, options)
    }

    pub fn run(&self) -> Report {
        self.run_on(&self.lake, &RunOptions { until_caught_up: true, ..RunOptions::default() }).unwrap()
    }

    pub fn work<'a>(&'a self, store: &'a dyn Store) -> Work<'a> {
        Work::new(Journal::new(store, NAME), &self.clock, &Unwatched)
    }

    pub fn compact(&self, store: &dyn Store) -> CompactReport {
        compact(&mut self.work(store), &CompactOptions::default()).unwrap()
    }

    pub fn replay(&self, options: &ReplayOptions) -> ReplayReport {
        replay(&mut self.work(&self.lake), &self.spec, options, &Means::default()).unwrap()
    }

    pub fn try_backfill(&self, from: i64, to: i64) -> Result<BackfillReport> {
        let options = BackfillOptions { from_us: day(from), to_us: day(to), dry_run: false };
        backfill(&mut self.work(&self.lake), &self.spec, &options, &Means::default())
    }

    pub fn backfill(&self, from: i64, to: i64, dry_run: bool) -> BackfillReport {
        let options = BackfillOptions { from_us: day(from), to_us: day(to), dry_run };
        backfill(&mut self.work(&self.lake), &self.spec, &options, &Means::default()).unwrap()
    }

    /// A run whose input does not end.
    pub fn run_unbounded(&self) -> Report {
        let shape = self.spec.shape();
        let contract = contract_of(&self.spec.contract_text, &self.spec.contract_path, &shape).unwrap();
        let paths = vec!["*.jsonl".to_owned()];
        let mut source = Files::new(FilesSettings { base: self.folder.clone(), paths, bounded: false }).unwrap();
        let mut runner = Runner::new(&self.lake, &self.clock, &self.spec, shape, contract, None, &Unwatched).unwrap();
        runner.run(&mut source, &RunOptions { until_caught_up: true, ..RunOptions::default() }).unwrap()
    }

    pub fn live(&self, layer: &str) -> Vec<FileEntry> {
        let live = self.work(&self.lake).journal.live().unwrap().unwrap();
        live.files.into_values().filter(|f| f.layer == layer).collect()
    }

    /// The rows of a layer with their partitions, in order.
    pub fn rows(&self, layer: &str) -> Vec<Row> {
        let mut rows: Vec<Row> = vec![];
        for file in self.live(layer) {
            let folder = Path::new(&file.path).parent().unwrap().to_str().unwrap().to_owned();
            let stored = StoredFile::open(&self.lake, &file).unwrap();
            let read = stored.read(&self.lake, None, None, &mut |batch| {
                let options = FormatOptions::default().with_null("null");
                let plain: Vec<_> = batch
                    .columns()
                    .iter()
                    .map(|c| match c.data_type() {
                        DataType::Timestamp(..) => cast(c, &DataType::Int64).unwrap(),
                        _ => c.clone(),
                    })
                    .collect();
                let columns: Vec<_> =
                    plain.iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
                rows.extend((0..batch.num_rows()).map(|row| {
                    let cells = batch.schema_ref().fields().iter().zip(&columns);
                    let mut cells: Row = cells.map(|(f, c)| (f.name().clone(), c.value(row).to_string())).collect();
                    cells.insert("_folder".into(), folder.clone());
                    cells
                }));
                Ok(())
            });
            read.unwrap();
        }
        rows.sort();
        rows
    }

    pub fn all_rows(&self) -> BTreeMap<&'static str, Vec<Row>> {
        let layers = ["bronze/events", "silver/events", "silver/sessions", "dead_letters"];
        layers.into_iter().map(|layer| (layer, self.rows(layer))).collect()
    }

    pub fn assert_sound(&self) {
        let audit = audit_store(&self.lake, NAME).unwrap();
        let failed: Vec<_> = audit.checks.iter().filter(|c| !c.passed).collect();
        assert!(audit.balanced && failed.is_empty(), "{failed:#?}");
    }

    pub fn kinds(&self) -> Vec<Kind> {
        self.work(&self.lake).journal.commits(None).unwrap().iter().map(|c| c.kind).collect()
    }
}

/// An event as a line: minute of the day, key, user, amount.
pub(super) fn event(day: u32, minute: u32, id: &str, user: &str, amount: &str) -> String {
    let (h, m) = (minute / 60, minute % 60);
    format!(
        r#"{{"type":"view","at":"2024-12-{day:02}T{h:02}:{m:02}:00Z","id":"{id}","user":"{user}","amount":{amount}}}"#
    )
}

/// Some hours of events of a few users: good ones, bad ones, duplicates.
pub(super) fn some_events(n: u32) -> Vec<String> {
    (0..n)
        .map(|i| {
            let amount = if i % 11 == 3 { "-1".to_owned() } else { i.to_string() };
            let id = if i % 13 == 5 { i - 1 } else { i };
            event(17 + i / 400, (i * 3) % 1200, &format!("k{id}"), &format!("u{}", i % 5), &amount)
        })
        .collect()
}
