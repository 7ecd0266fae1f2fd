//! Laws: a batch is a stream, in any cut and saved anywhere; against windows that are obviously right.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_batch_is_what_the_model_says(
        (events, shuffled) in prop::collection::vec(event(), 0..30).prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())),
        spec in any_spec(),
        cut in 1usize..10,
    ) {
        let whole = aggregate_windows(&[batch(&events)], "event_time", spec.clone()).unwrap();
        prop_assert_eq!(sorted(rows(&whole)), sorted(model(&events, &spec, |_| true)));
        // Ordered by window and group; independent of order and cut, to the last bit.
        prop_assert!(micros_of(&whole, "window_start").is_sorted());
        let pieces: Vec<RecordBatch> = std::iter::once(batch(&[])).chain(shuffled.chunks(cut).map(batch)).collect();
        prop_assert_eq!(aggregate_windows(&pieces, "event_time", spec).unwrap(), whole);
    }

    /// Whatever the cut into epochs, and wherever it is saved: each window comes out once, when it is final, as the model
    /// has it; and what was shown as changed at last is what comes out.
    #[test]
    fn batch_is_stream(
        mut events in prop::collection::vec(event(), 0..30),
        spec in any_spec(),
        afters in afters(),
        lateness in 0i64..40,
    ) {
        // Time moves on, and what is late is left out.
        events.iter_mut().enumerate().for_each(|(i, e)| e.time = i as i64 * 4 - e.time.rem_euclid(20) - 50);
        let mut windows = Windows::new(spec.clone(), &schema()).unwrap();
        let mut log = Saved::default();
        let mut accepted: Vec<Event> = Vec::new();
        let (mut watermark, mut highest) = (None, i64::MIN);
        let mut out: Vec<Vec<String>> = Vec::new();
        let mut shown: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        let key = |row: &Vec<String>| row[..2 + spec.by.len()].to_vec();
        for (event, after) in events.iter().zip(afters) {
            if watermark.is_none_or(|w| event.time >= w) {
                accepted.push(event.clone());
                windows.push(&batch(std::slice::from_ref(event))).unwrap();
            }
            highest = highest.max(event.time);
            match after {
                After::Nothing => continue,
                After::Changed => {
                    for row in rows(&windows.changed().unwrap()) {
                        shown.insert(key(&row), row);
                    }
                    let open = sorted(model(&accepted, &spec, |end| watermark.is_none_or(|w| end > w)));
                    let still: Vec<Vec<String>> = open.iter().map(|row| shown[&key(row)].clone()).collect();
                    prop_assert_eq!(still, open);
                    prop_assert_eq!(windows.changed().unwrap().num_rows(), 0);
                    continue;
                }
                After::Commit | After::Snapshot | After::Deltas => {}
            }
            let to = watermark.unwrap_or(i64::MIN).max(highest - lateness);
            let before = watermark.replace(to);
            let last = rows(&windows.advance(to).unwrap());
            let expected = model(&accepted, &spec, |end| end <= to && before.is_none_or(|b| end > b));
            prop_assert_eq!(sorted(last.clone()), sorted(expected));
            out.extend(last);
            let snapshot = through_ipc(&windows.snapshot().unwrap());
            log.add(&mut windows, after == After::Snapshot);
            for n in 1..4 {
                match split(&snapshot, n) {
                    Ok(parts) => prop_assert_eq!(&merge(&parts).unwrap(), &snapshot),
                    Err(error) => prop_assert!(!spec.by.contains(&"entity".to_string()), "{}", error),
                }
            }
            if after != After::Commit {
                let mut loaded = Windows::new(spec.clone(), &schema()).unwrap();
                match after {
                    After::Deltas => log.load(&mut loaded),
                    _ => loaded.load(&snapshot).unwrap(),
                }
                prop_assert_eq!(&through_ipc(&loaded.snapshot().unwrap()), &snapshot);
                // What was to be shown is not part of the state: a run that starts shows nothing that did not change.
                for row in rows(&windows.changed().unwrap()) {
                    shown.insert(key(&row), row);
                }
                windows = loaded;
            }
        }
        out.extend(rows(&windows.flush_all().unwrap()));
        prop_assert_eq!(sorted(out), sorted(model(&accepted, &spec, |_| true)));
        prop_assert_eq!(windows.snapshot().unwrap()[0].1.num_rows(), 0);
    }

    /// Hopping windows are the union of tumbling ones, each set begun one slide later.
    #[test]
    fn hopping_is_a_union_of_tumbling(events in prop::collection::vec(event(), 1..30), slide in 1i64..10, times in 1i64..6) {
        let hopping = rows(&aggregate_windows(&[batch(&events)], "event_time", spec(slide * times, Some(slide), &["store"])).unwrap());
        let mut union = Vec::new();
        for n in 0..times {
            let shifted: Vec<Event> = events.iter().map(|e| Event { time: e.time - n * slide, ..e.clone() }).collect();
            // The greatest time is shifted too: leave that column out of the comparison.
            let tumbling = aggregate_windows(&[batch(&shifted)], "event_time", spec(slide * times, None, &["store"])).unwrap();
            let starts = micros_of(&tumbling, "window_start").into_iter().map(|s| s + n * slide);
            union.extend(rows(&tumbling).into_iter().zip(starts).map(|(row, start)| (start, without_times(row))));
        }
        union.sort();
        let starts = aggregate_windows(&[batch(&events)], "event_time", spec(slide * times, Some(slide), &["store"])).unwrap();
        let mut expected: Vec<(i64, Vec<String>)> =
            micros_of(&starts, "window_start").into_iter().zip(hopping.into_iter().map(without_times)).collect();
        expected.sort();
        prop_assert_eq!(union, expected);
    }
}
