//! Laws, against a slow and obviously right history.

use super::*;

fn model(changes: &[Change]) -> Vec<Seen> {
    let mut entities: BTreeMap<Key, BTreeMap<i64, Vec<Change>>> = BTreeMap::new();
    for c in changes {
        entities.entry((c.key.clone(), c.shop)).or_default().entry(c.at).or_default().push(c.clone());
    }
    let mut out = Vec::new();
    for (key, moments) in entities {
        let winner = |all: &Vec<Change>| {
            all.iter().max_by_key(|c| (c.order, !c.delete, c.a.clone(), c.b, c.c.clone())).unwrap().clone()
        };
        let winners: Vec<Change> = moments.values().map(winner).collect();
        let newest = winners.iter().rev().find(|c| !c.delete).and_then(|c| c.c.clone());
        let mut rows: Vec<Seen> = Vec::new();
        let mut open = false;
        for w in winners {
            if open && !w.delete && rows.last().is_some_and(|r| (&r.a, r.b) == (&w.a, w.b)) {
                continue;
            }
            if open {
                rows.last_mut().unwrap().end = Some(w.at);
            }
            open = !w.delete;
            if open {
                rows.push(Seen { key: key.clone(), start: w.at, end: None, a: w.a, b: w.b, c: newest.clone() });
            }
        }
        out.extend(rows);
    }
    out.sort();
    out
}

fn arb_change() -> impl Strategy<Value = Change> {
    let key = prop_oneof![Just(None), Just(Some(String::new())), "[ab\\x00]{1,3}".prop_map(Some)];
    let value = prop_oneof![Just(None), Just(Some(String::new())), "[xy]".prop_map(Some)];
    let other = proptest::option::of("[pq]");
    (
        key,
        0..2_i64,
        -4..12_i64,
        proptest::option::of(0..3_i64),
        prop::bool::weighted(0.2),
        value,
        proptest::option::of(0..2_i64),
        other,
    )
        .prop_map(|(key, shop, at, order, delete, a, b, c)| Change { key, shop, at, order, delete, a, b, c })
}

/// Changes in any order, cut into loads.
fn arb_loads() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec((arb_change(), 0..6_usize), 1..60).prop_map(|changes| {
        let mut loads = vec![Vec::new(); 6];
        for (change, load) in changes {
            loads[load].push(change);
        }
        loads
    })
}

fn load_all(loads: &[Vec<Change>]) -> History {
    let mut history: Option<History> = None;
    for load in loads.iter().filter(|l| !l.is_empty()) {
        history = Some(merge(history.as_ref(), &[batch(load)], &spec()).unwrap().into_state());
    }
    history.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_order_in_any_number_of_loads_gives_the_history_of_the_model(loads in arb_loads(), seed in any::<u64>()) {
        let mut all: Vec<Change> = loads.concat();
        let expected = model(&all);
        let one = merge(None, &[batch(&all)], &spec()).unwrap();
        let shown = one.history().unwrap();
        prop_assert_eq!(&rows(&shown), &expected);
        // The rows come ordered by key and start.
        prop_assert_eq!(seen(&shown).into_iter().map(|(_, r)| r).collect::<Vec<_>>(), expected);
        let many = load_all(&loads);
        prop_assert_eq!(&many.rows().unwrap(), &shown);
        // Backwards, shuffled and with some changes delivered again.
        let mut state = seed | 1;
        for i in (1..all.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            all.swap(i, (state >> 33) as usize % (i + 1));
        }
        let again: Vec<Vec<Change>> = all.chunks(3).map(<[_]>::to_vec).chain([all[..all.len() / 2].to_vec()]).collect();
        let shuffled = load_all(&again);
        prop_assert_eq!(&shuffled.rows().unwrap(), &shown);
        // What is saved does not tell in which order it came either.
        prop_assert_eq!(shuffled.to_batch().unwrap(), many.to_batch().unwrap());
        prop_assert_eq!(many.points(), many.to_batch().unwrap().num_rows());
    }

    #[test]
    fn intervals_never_overlap_and_gaps_follow_deletes_only(loads in arb_loads()) {
        let all = loads.concat();
        let history = rows(&load_all(&loads).rows().unwrap());
        for pair in history.windows(2).filter(|w| w[0].key == w[1].key) {
            let end = pair[0].end.expect("only the last row of an entity is current");
            prop_assert!(pair[0].start < end && end <= pair[1].start);
            if end < pair[1].start {
                prop_assert!(all.iter().any(|c| c.delete && c.at == end && (&c.key, c.shop) == (&pair[0].key.0, pair[0].key.1)));
            } else {
                prop_assert_ne!((&pair[0].a, pair[0].b), (&pair[1].a, pair[1].b));
            }
        }
        let current: Vec<&Key> = history.iter().filter(|r| r.end.is_none()).map(|r| &r.key).collect();
        prop_assert_eq!(current.iter().collect::<BTreeSet<_>>().len(), current.len());
    }

    #[test]
    fn upserts_and_removed_turn_the_old_table_into_the_new_one(loads in arb_loads()) {
        let mut table: BTreeMap<i64, Seen> = BTreeMap::new();
        let mut points: BTreeMap<(Key, i64), Change> = BTreeMap::new();
        let mut history: Option<History> = None;
        for load in loads.iter().filter(|l| !l.is_empty()) {
            let merged = merge(history.as_ref(), &[batch(load)], &spec()).unwrap();
            let before = table.len() as u64;
            let touched: BTreeSet<Key> = load.iter().map(|c| (c.key.clone(), c.shop)).collect();
            // The points of the touched entities are all that a load needs.
            let needed: Vec<Change> = points.values().filter(|c| touched.contains(&(c.key.clone(), c.shop))).cloned().collect();
            let partial = History::from_points(&[batch(&needed)], &spec()).unwrap();
            let partial = merge(Some(&partial), &[batch(load)], &spec()).unwrap();
            prop_assert_eq!(partial.upserts().unwrap(), merged.upserts().unwrap());
            prop_assert_eq!(partial.removed().unwrap(), merged.removed().unwrap());
            let removed = seen(&merged.removed().unwrap());
            for (surrogate, row) in &removed {
                prop_assert_eq!(table.remove(surrogate), Some(row.clone()));
            }
            for (surrogate, row) in seen(&merged.upserts().unwrap()) {
                prop_assert_ne!(table.insert(surrogate, row.clone()), Some(row), "an upsert that changes nothing");
            }
            let counts = merged.counts();
            prop_assert_eq!(counts.rows_removed, removed.len() as u64);
            prop_assert_eq!(before + counts.rows_added - counts.rows_removed, table.len() as u64);
            prop_assert_eq!(&table, &seen(&merged.history().unwrap()).into_iter().collect::<BTreeMap<_, _>>());
            // Points kept beside the table give the same history again.
            for change in changes_of(&merged.points().unwrap()) {
                points.insert(((change.key.clone(), change.shop), change.at), change);
            }
            let kept: Vec<Change> = points.values().cloned().collect();
            let from_points = History::from_points(&[batch(&kept)], &spec()).unwrap();
            prop_assert_eq!(from_points.rows().unwrap(), merged.history().unwrap());
            let changed = merged.changed_keys().unwrap();
            for (key, shop) in text(&changed, "key").into_iter().zip(ints(&changed, "shop")) {
                prop_assert!(touched.contains(&(key, shop.unwrap())));
            }
            history = Some(merged.into_state());
        }
    }

    #[test]
    fn saved_and_loaded_at_any_point_changes_nothing(loads in arb_loads()) {
        let kept = load_all(&loads);
        let mut history: Option<History> = None;
        for load in loads.iter().filter(|l| !l.is_empty()) {
            let merged = merge(history.as_ref(), &[batch(load)], &spec()).unwrap().into_state();
            history = Some(History::from_batch(&merged.to_batch().unwrap()).unwrap());
        }
        let history = history.unwrap();
        prop_assert_eq!(history.rows().unwrap(), kept.rows().unwrap());
        prop_assert_eq!(history.to_batch().unwrap(), kept.to_batch().unwrap());
    }

    #[test]
    fn a_settled_history_keeps_the_law_for_what_comes_after(loads in arb_loads(), before in -4..12_i64, late in prop::collection::vec(arb_change(), 0..20)) {
        let late: Vec<Change> = late.into_iter().map(|c| Change { at: c.at.max(before), ..c }).collect();
        let settled = load_all(&loads).settle(before).unwrap();
        prop_assert!(settled.points() <= load_all(&loads).points());
        prop_assert_eq!(settled.rows().unwrap(), load_all(&loads).rows().unwrap());
        let merged = merge(Some(&settled), &[batch(&late)], &spec()).unwrap();
        prop_assert_eq!(rows(&merged.history().unwrap()), model(&[loads.concat(), late].concat()));
        prop_assert!(merged.notes().is_empty());
        let again = History::from_batch(&settled.to_batch().unwrap()).unwrap();
        prop_assert_eq!(again.settled(), Some(before));
    }

    #[test]
    fn bare_rows_are_merged_as_points_of_their_own(loads in arb_loads(), more in prop::collection::vec(arb_change(), 1..10)) {
        let complete = load_all(&loads);
        let bare = History::from_rows(&[complete.rows().unwrap()], &spec()).unwrap();
        prop_assert!(!bare.is_complete());
        prop_assert_eq!(bare.rows().unwrap(), complete.rows().unwrap());
        // Later than everything: then nothing forgotten matters.
        let more: Vec<Change> = more.into_iter().map(|c| Change { at: c.at + 100, ..c }).collect();
        let merged = merge(Some(&bare), &[batch(&more)], &spec()).unwrap();
        prop_assert_eq!(rows(&merged.history().unwrap()), model(&[loads.concat(), more].concat()));
        prop_assert_eq!(merged.notes().len(), 1);
        let loaded = History::from_batch(&merged.state().to_batch().unwrap()).unwrap();
        prop_assert!(!loaded.is_complete());
    }

    #[test]
    fn facts_find_their_rows_or_an_inferred_one(loads in arb_loads(), facts in prop::collection::vec((arb_change(), -6..14_i64), 0..40)) {
        let history = load_all(&loads);
        let table: BTreeMap<i64, Seen> = seen(&history.rows().unwrap()).into_iter().collect();
        let asked: Vec<Change> = facts.into_iter().map(|(c, at)| Change { at, ..c }).collect();
        let key = ["key".to_owned(), "shop".to_owned()];
        let pointed = point(&history, &[batch(&asked)], &key, "at").unwrap();
        let inferred: BTreeMap<i64, Seen> = seen(&pointed.inferred).into_iter().collect();
        prop_assert_eq!(inferred.len(), pointed.inferred.num_rows());
        let mut used = BTreeSet::new();
        for (i, fact) in asked.iter().enumerate() {
            let surrogate = pointed.surrogate_key.value(i);
            let row = if pointed.is_inferred.value(i) { &inferred[&surrogate] } else { &table[&surrogate] };
            prop_assert_eq!(&row.key, &(fact.key.clone(), fact.shop));
            prop_assert!(row.start <= fact.at && row.end.is_none_or(|end| fact.at < end));
            if pointed.is_inferred.value(i) {
                used.insert(surrogate);
                prop_assert_eq!((&row.a, row.b, &row.c), (&None, None, &None));
                let overlap = |r: &&Seen| r.key == row.key && row.end.is_none_or(|e| r.start < e) && r.end.is_none_or(|e| row.start < e);
                prop_assert_eq!(table.values().find(overlap), None);
            }
        }
        prop_assert_eq!(used.len(), inferred.len());
        prop_assert!(inferred.keys().all(|k| !table.contains_key(k)));
    }
}

fn changes_of(points: &RecordBatch) -> Vec<Change> {
    let (key, shop, a, b, c) =
        (text(points, "key"), ints(points, "shop"), text(points, "a"), ints(points, "b"), text(points, "c"));
    let (at, order, op) = (times(points, "at"), ints(points, "offset"), text(points, "op"));
    (0..points.num_rows())
        .map(|i| Change {
            key: key[i].clone(),
            shop: shop[i].unwrap(),
            at: at[i].unwrap(),
            order: order[i],
            delete: op[i].as_deref() == Some("D"),
            a: a[i].clone(),
            b: b[i],
            c: c[i].clone(),
        })
        .collect()
}
