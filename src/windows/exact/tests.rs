use proptest::prelude::*;

use super::*;

/// The obviously right sum: for each binary digit how often it was added, carried at the end, and rounded by its digits.
pub(in crate::windows) fn model(values: &[f64]) -> f64 {
    if values.iter().any(|v| !v.is_finite()) {
        // Here any order gives the same.
        return values.iter().filter(|v| !v.is_finite()).sum();
    }
    let mut digits = vec![0i64; 2_300];
    for value in values {
        let bits = value.abs().to_bits();
        let (mantissa, at) = match bits >> 52 {
            0 => (bits, 0),
            e => (bits & ((1 << 52) - 1) | 1 << 52, e as usize - 1),
        };
        for i in (0..53).filter(|i| mantissa >> i & 1 == 1) {
            digits[at + i] += if *value < 0.0 { -1 } else { 1 };
        }
    }
    let carried = |digits: &[i64]| {
        let mut carry = 0;
        let mut bits = Vec::new();
        for digit in digits {
            let sum = digit + carry;
            bits.push(sum.rem_euclid(2) == 1);
            carry = sum.div_euclid(2);
        }
        (bits, carry < 0)
    };
    let (mut bits, negative) = carried(&digits);
    if negative {
        bits = carried(&digits.iter().map(|d| -d).collect::<Vec<_>>()).0;
    }
    let Some(top) = bits.iter().rposition(|bit| *bit) else { return 0.0 };
    let lowest = top.saturating_sub(52);
    let mut mantissa = (lowest..=top).rev().fold(0u64, |m, i| m << 1 | u64::from(bits[i]));
    let half = lowest > 0 && bits[lowest - 1];
    let beyond = lowest > 1 && bits[..lowest - 1].contains(&true);
    if half && (beyond || mantissa & 1 == 1) {
        mantissa += 1;
    }
    // The mantissa is exact; powers of two are applied where they are exact too.
    let mut value = mantissa as f64;
    for _ in 0..lowest {
        value *= 2.0;
    }
    value *= 2f64.powi(-537);
    value *= 2f64.powi(-537);
    if lowest > 900 {
        // Scaled up first it would have overflowed.
        value = (0..lowest as i32 - 1074).fold(mantissa as f64, |v, _| v * 2.0);
        value = (lowest as i32..1074).fold(value, |v, _| v / 2.0);
    }
    if negative { -value } else { value }
}

fn sum_of(values: &[f64]) -> FloatSum {
    let mut sum = FloatSum::default();
    values.iter().for_each(|v| sum.add(*v));
    sum
}

/// Numbers of all sizes, those that need care among them.
pub(in crate::windows) fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |v| v.is_finite()),
        3 => (-100_000i32..100_000).prop_map(|cents| f64::from(cents) / 100.0),
        1 => prop_oneof![Just(0.0), Just(-0.0), Just(f64::MAX), Just(f64::MIN), Just(f64::MIN_POSITIVE), Just(5e-324), Just(1e16), Just(1.0)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn is_the_exact_sum_in_any_order(
        (values, shuffled) in prop::collection::vec(float(), 0..30).prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
        cut in 0usize..30,
    ) {
        let sum = sum_of(&values);
        prop_assert_eq!(sum.value().to_bits(), model(&values).to_bits());
        let cut = cut.min(shuffled.len());
        let mut merged = sum_of(&shuffled[..cut]);
        merged.merge(&sum_of(&shuffled[cut..]));
        prop_assert_eq!(merged.value().to_bits(), sum.value().to_bits());
        prop_assert_eq!(merged.to_bytes(), sum.to_bytes());
        let mut loaded = FloatSum::from_bytes(&sum.to_bytes()).unwrap();
        prop_assert_eq!(loaded.to_bytes(), sum.to_bytes());
        loaded.add(0.1);
        merged.add(0.1);
        prop_assert_eq!(loaded.to_bytes(), merged.to_bytes());
    }

    #[test]
    fn what_is_added_and_taken_away_is_gone(values in prop::collection::vec(float(), 0..20)) {
        let mut sum = sum_of(&values);
        values.iter().rev().for_each(|v| sum.add(-v));
        prop_assert_eq!(sum.value().to_bits(), 0.0f64.to_bits());
        prop_assert_eq!(sum.to_bytes(), FloatSum::default().to_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(sum) = FloatSum::from_bytes(&bytes) {
            sum.value();
        }
    }

    #[test]
    fn integers_never_overflow(values in prop::collection::vec(prop_oneof![any::<i128>(), Just(i128::MAX), Just(i128::MIN)], 0..20)) {
        let mut sum = WideSum::default();
        values.iter().for_each(|v| sum.add(*v));
        let expected = values.iter().fold(i256::ZERO, |s, v| s.wrapping_add(i256::from_i128(*v)));
        prop_assert_eq!(sum.wide(), expected);
        prop_assert_eq!(WideSum::from_wide(expected), Some(sum));
        prop_assert_eq!(sum.narrow(), expected.to_i128());
    }
}

#[test]
fn known_sums() {
    assert_eq!(sum_of(&[0.1; 10]).value(), 1.0);
    assert_eq!(sum_of(&[1e16, 1.0, -1e16]).value(), 1.0);
    assert_eq!(sum_of(&[1e308, 1e308, -1e308]).value(), 1e308);
    assert_eq!(sum_of(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
    assert_eq!(sum_of(&[f64::INFINITY, 1.0]).value(), f64::INFINITY);
    assert!(sum_of(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
    assert!(sum_of(&[f64::NAN, 1.0]).value().is_nan());
    assert_eq!(sum_of(&[5e-324, 5e-324]).value(), 1e-323);
    // What is left of a wide sum may be as small as a number can be.
    assert_eq!(sum_of(&[f64::MAX, -f64::MAX, 5e-324]).value(), 5e-324);
    assert_eq!(sum_of(&[f64::MAX, -f64::MAX, f64::MIN_POSITIVE, -5e-324]).value(), f64::MIN_POSITIVE - 5e-324);
}
