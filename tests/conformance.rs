//! Two suites that others wrote: the JSON-Schema-Test-Suite (draft 2020-12) and the JSONTestSuite. They lie beside the
//! repository and not in it; without them these tests say so and pass.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use _core::contract::json::Syntax;
use _core::contract::schema::{Judge, Validator};
use serde_json::Value;

fn suite(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/conformance").join(name);
    let there = path.is_dir();
    if !there {
        eprintln!("\n*** SKIPPED: {} is not there, so nothing was compared with the suite ***\n", path.display());
    }
    there.then_some(path)
}

/// Every file below a folder, in order, with its path from there.
fn files(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    found
}

/// The values of a file, numbers kept as they are written.
fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[derive(Default)]
struct Count {
    tests: usize,
    exact: usize,
    fast: usize,
    failed: usize,
}

#[test]
fn json_schema_test_suite() {
    let Some(root) = suite("json_schema") else { return };
    let mut registry = jsonschema::Registry::new();
    for (name, path) in files(&root.join("remotes")) {
        // Schemas of a draft that is not out yet, which no test of ours refers to.
        if name.starts_with("v1/") {
            continue;
        }
        let uri = format!("http://localhost:1234/{name}");
        registry = registry.add(uri, read(&path)).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    let (mut failed, mut required): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (name, path) in files(&root.join("tests/draft2020-12")) {
        let optional = name.starts_with("optional/");
        // The standard's default is that `format` asserts nothing, and the required tests hold us to it.
        let formats = name.starts_with("optional/format/");
        let kind = if formats {
            "optional, formats"
        } else if optional {
            "optional"
        } else {
            "required"
        };
        for group in read(&path).as_array().unwrap() {
            let built = Validator::new(&group["schema"], formats, Some(&registry));
            for test in group["tests"].as_array().unwrap() {
                let count = counts.entry(kind).or_default();
                count.tests += 1;
                let id = format!("{name} | {} | {}", text(group), text(test));
                let wanted = test["valid"].as_bool().unwrap();
                let outcome = built.as_ref().map_err(ToString::to_string).and_then(|v| compare(v, test, wanted, count));
                if let Err(reason) = outcome {
                    count.failed += 1;
                    if optional {
                        failed.push(id);
                    } else {
                        required.push(format!("{id}: {reason}"));
                    }
                }
            }
        }
    }
    println!("\n{:<20} {:>6} {:>8} {:>12} {:>12}", "JSON Schema", "tests", "passed", "fast + exact", "fast accepts");
    for (kind, c) in &counts {
        println!("{kind:<20} {:>6} {:>8} {:>12} {:>12}", c.tests, c.tests - c.failed, c.exact, c.fast);
    }
    assert!(required.is_empty(), "required tests fail: {required:#?}");
    let known =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance_optional.txt")).unwrap();
    let known: Vec<&str> = known.lines().filter(|l| !l.is_empty() && !l.starts_with(['#', ' '])).collect();
    failed.sort();
    let new: Vec<&String> = failed.iter().filter(|f| !known.contains(&f.as_str())).collect();
    let gone: Vec<&&str> = known.iter().filter(|k| !failed.iter().any(|f| f == **k)).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "tests/conformance_optional.txt is not exact\nfails: {new:#?}\npasses: {gone:#?}"
    );
}

fn text(value: &Value) -> &str {
    value["description"].as_str().unwrap_or_default()
}

/// Asks every judge that can take the schema; all have to give the answer of the suite, and the same problems.
fn compare(validator: &Validator, test: &Value, wanted: bool, count: &mut Count) -> Result<(), String> {
    let data = test["data"].to_string();
    let syntax = |e: Syntax| format!("is not JSON: {}", e.what);
    let fallback = validator.problems(data.as_bytes(), Judge::Fallback).map_err(syntax)?.unwrap();
    if fallback.is_empty() != wanted {
        return Err(format!("the fallback says {}", !wanted));
    }
    if let Some(exact) = validator.problems(data.as_bytes(), Judge::Exact).map_err(syntax)? {
        count.exact += 1;
        if validator.accepts(data.as_bytes()) {
            count.fast += 1;
            if !wanted {
                return Err("the fast path accepts".into());
            }
        }
        if exact != fallback {
            return Err(format!("exact {exact:#?}\nfallback {fallback:#?}"));
        }
    }
    Ok(())
}

#[test]
fn json_test_suite() {
    let Some(root) = suite("json_parsing") else { return };
    let anything = Validator::from_text("true", true).unwrap();
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (name, path) in files(&root) {
        if !name.ends_with(".json") {
            continue;
        }
        let accepted = anything.problems(&fs::read(&path).unwrap(), Judge::Fallback).is_ok();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        match &file[..2] {
            "y_" => assert!(accepted, "{name} has to be accepted"),
            "n_" => assert!(!accepted, "{name} has to be refused"),
            _ => {}
        }
        let kind = if name.starts_with("test_transform") { "transform" } else { &file[..2] };
        counts.entry(kind.to_owned()).or_default()[usize::from(!accepted)] += 1;
    }
    println!("\n{:<12} {:>9} {:>9}", "JSON", "accepted", "refused");
    for (kind, [accepted, refused]) in counts {
        println!("{kind:<12} {accepted:>9} {refused:>9}");
    }
}
