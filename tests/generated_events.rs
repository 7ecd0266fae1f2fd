//! The contract of the shop finds in generated events exactly what the generator says is in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use _core::contract::{Contract, JudgeRules};
use _core::events::RawEvents;
use _core::generate::{Flaw, GenerateOptions, Made, Profile, generate};
use _core::time::MINUTE;
use arrow::array::{Array, AsArray, BinaryViewArray, Int64Array};
use arrow::datatypes::{Decimal128Type, TimestampMicrosecondType};

#[test]
fn the_contract_finds_what_the_truth_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/penstock/pipelines/ecommerce");
    let contract = Contract::load(&folder.join("contract.yaml")).unwrap();
    let mut flaws = Flaw::DEFAULT.to_vec();
    flaws.push(Flaw::TooLarge);
    let options = GenerateOptions {
        total: 20_000,
        bad_rate: 0.05,
        duplicate_rate: 0.0,
        flaws: Some(flaws),
        ..Default::default()
    };
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut out = |made: Made<'_>| {
        lines.push(made.line.to_vec());
        Ok(())
    };
    let truth = generate(Profile::Ecommerce, &options, &mut out, &mut |_| Ok(())).unwrap();
    let events = RawEvents {
        topic: Arc::from("events"),
        partition: 0,
        offsets: Int64Array::from_iter_values(0..lines.len() as i64),
        values: lines.iter().map(|l| Some(l.as_slice())).collect::<BinaryViewArray>(),
        timestamps: None,
        keys: None,
        headers: None,
        timestamp_type: None,
        truncated: vec![],
        arrival: options.start + options.span().unwrap(),
    };
    for (rules, expected) in [
        (JudgeRules { max_future_skew: Some(5 * MINUTE) }, &truth.expected),
        (JudgeRules { max_future_skew: None }, &truth.expected_batch),
    ] {
        let judged = contract.judge(&events, &rules).unwrap();
        let mut codes: BTreeMap<String, u64> = BTreeMap::new();
        for rejected in &judged.rejected {
            *codes.entry(rejected.problems[0].code.as_str().to_owned()).or_default() += 1;
        }
        assert_eq!(codes, expected.rejected_by_code);
        assert_eq!(judged.valid.num_rows() as u64, expected.silver);
        let types = judged.valid.column_by_name("event_type").unwrap().as_string::<i32>().clone();
        let amounts = judged.valid.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>().clone();
        let times =
            judged.valid.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>().clone();
        assert_eq!(times.null_count(), 0);
        let far = options.start * 2;
        let paid: i128 = (0..types.len())
            .filter(|&i| types.value(i) == "purchase" && times.value(i) < far)
            .map(|i| amounts.value(i))
            .sum();
        assert_eq!(format!("{}.{:02}", paid / 100, paid % 100), truth.purchase_amount);
    }
    let several = contract.judge(&events, &JudgeRules { max_future_skew: None }).unwrap();
    let several = several.rejected.iter().filter(|r| r.problems.len() == 3).count() as u64;
    assert_eq!(several, truth.flaws["several_problems"]);
}
