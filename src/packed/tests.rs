use arrow::array::Int64Array;
use arrow::datatypes::Field;

use super::*;

#[test]
fn equal_items_have_one_number() {
    let items: Vec<u32> = (0..1000).map(|i| i % 7 * 1000).collect();
    let (numbers, distinct) = numbered(&items).unwrap();
    assert_eq!(distinct, [0, 1000, 2000, 3000, 4000, 5000, 6000]);
    assert!(items.iter().zip(&numbers).all(|(item, n)| distinct[usize::from(*n)] == *item));
    assert!(numbered(&(0..1000).collect::<Vec<_>>()).is_none());
    assert!(numbered(&(0..200_000).map(|i| i % 66_000).collect::<Vec<_>>()).is_none());
    assert_eq!(numbered(&[]), Some((vec![], vec![])));
}

#[test]
fn a_null_among_the_values_is_null() {
    let numbers = UInt16Array::from(vec![Some(0), Some(1), None, Some(2)]);
    let values = StringArray::from(vec![Some("a"), None, Some("")]);
    let column = DictionaryArray::<UInt16Type>::new(numbers, Arc::new(values));
    let text = Text::of(&column).unwrap();
    let texts = [Some("a"), None, None, Some("")];
    assert_eq!((0..4).map(|row| text.get(row)).collect::<Vec<_>>(), texts);
    let mut mapped = vec![];
    text.map(|t| t, |t| mapped.push(t));
    assert_eq!(mapped, texts);
}

#[test]
fn a_place_beyond_the_values_is_refused() {
    let values = |n: usize| StringArray::from_iter_values((0..n).map(|i| i.to_string()));
    for rows in [0, 1, 7, 8, 9, 40] {
        let numbers: Vec<u16> = (0..rows).map(|row| row % 5).collect();
        let last = usize::from(rows.clamp(1, 5));
        let column = of(numbers.clone(), None, values(last)).unwrap();
        let text = Text::of(&column).unwrap();
        assert!((0..rows).all(|row| text.get(usize::from(row)) == Some((row % 5).to_string().as_str())));
        column.to_data().validate_full().unwrap();
        assert_eq!(of(numbers.clone(), None, values(last - 1)).is_err(), rows > 0);
        // Where a row is null its number does not count.
        let nulls = NullBuffer::from_iter(numbers.iter().map(|n| usize::from(*n) + 1 < last));
        let column = of(numbers, Some(nulls), values(last - 1)).unwrap();
        assert!(
            (0..rows)
                .all(|row| Text::of(&column).unwrap().get(usize::from(row)).is_some()
                    == (usize::from(row % 5) + 1 < last))
        );
    }
    assert!(of(vec![u16::MAX, 0], None, values(usize::from(u16::MAX))).is_err());
}

#[test]
fn numbers_that_are_mostly_null_take_two_bytes() {
    let runs = [(0, 3), (4, 5), (7, 20), (20, 31), (33, 34)];
    let plain: Int64Array = (0..36).map(|i| runs.iter().all(|r| i < r.0 || i >= r.1).then_some(i as i64)).collect();
    let (numbers, values) = sparse(plain.values(), &runs).unwrap();
    assert_eq!(values, [3, 5, 6, 31, 32, 34, 35]);
    let column = of(numbers, plain.nulls().cloned(), Int64Array::from(values)).unwrap();
    column.to_data().validate_full().unwrap();
    assert!(!is_packed(column.data_type()) && *plain_type(column.data_type()) == DataType::Int64);
    let whole: ArrayRef = Arc::new(plain.clone());
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let rows = batch(&schema, vec![Arc::clone(&column)]).unwrap();
    assert_eq!(plain_schema(rows.schema_ref()), *schema);
    assert_eq!(unpack(&schema, &rows).unwrap().column(0), &whole);
    let chosen: BooleanArray = (0..36).map(|i| Some(i % 3 != 1)).collect();
    let some = plain_rows(&filter(&rows, &chosen).unwrap()).unwrap();
    assert_eq!(some.column(0), &arrow::compute::filter(&whole, &chosen).unwrap());
    // All rows null; as many nulls as values; fewer; more values than there are numbers.
    assert_eq!(sparse(&[0; 5], &[(0, 5)]), Some((vec![0; 5], vec![])));
    assert_eq!(sparse(&[0, 7], &[(0, 1)]), Some((vec![0, 0], vec![7])));
    assert_eq!(sparse(&[0, 7, 8], &[(0, 1)]), None);
    assert_eq!(sparse::<i64>(&[], &[]), None);
    let most = usize::from(u16::MAX);
    assert!(sparse(&vec![1; 2 * most], &[(0, most)]).is_some());
    assert!(sparse(&vec![1; 2 * most + 2], &[(0, most + 1)]).is_none());
}

#[test]
fn numbers_that_repeat_are_held_once() {
    let column: Vec<i64> = (0..4000).map(|i| i * i % 251 - 100).collect();
    let (numbers, values) = repeating(&column).unwrap();
    assert!(values.len() < 251 && numbers.len() == 4000);
    assert!(column.iter().zip(&numbers).all(|(value, n)| values[usize::from(*n)] == *value));
    assert!(repeating(&(0..4000).collect::<Vec<_>>()).is_none());
    assert!(repeating(&(0..4000).map(|i| i % 1000).collect::<Vec<_>>()).is_some());
    assert!(repeating(&(0..4000).map(|i| i % 1001).collect::<Vec<_>>()).is_none());
    assert!(repeating(&(0..1 << 19).map(|i| i % (1 << 16)).collect::<Vec<_>>()).is_none());
    assert_eq!((repeating(&[]), repeating(&[7; 3])), (None, None));
    // All in one slot: given up.
    let inverse = (0..5).fold(1_u64, |x, _| x.wrapping_mul(2_u64.wrapping_sub(x.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    let alike: Vec<i64> = (0..4000).map(|i: u64| inverse.wrapping_mul(i % 100) as i64).collect();
    assert!(repeating(&alike).is_none());
}

#[test]
fn columns_of_one_value_share_their_numbers() {
    let keys = |rows: usize, number: u16| {
        let mut numbers = vec![0; rows];
        numbers[rows / 2] = number;
        let column = of(numbers, None, StringArray::from_iter_values(["a", "b"])).unwrap();
        column.as_dictionary::<UInt16Type>().keys().values().clone()
    };
    let (few, many) = (keys(3, 0), keys(ZEROS, 0));
    assert_eq!((few.as_ptr(), &few[..]), (many.as_ptr(), &[0; 3][..]));
    assert_eq!(many.len(), ZEROS);
    assert_ne!(keys(3, 1).as_ptr(), few.as_ptr());
    let more = keys(ZEROS + 1, 0);
    assert!(more.len() == ZEROS + 1 && more.iter().all(|n| *n == 0));
}

#[test]
fn packed_and_plain_say_the_same() {
    let texts = [Some("a"), None, Some("bb"), Some("a")];
    let plain: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let packed: ArrayRef = cast(&plain, &packed_type()).unwrap();
    let schema =
        Arc::new(Schema::new(vec![Field::new("x", DataType::Utf8, true), Field::new("y", DataType::Utf8, true)]));
    let both = batch(&schema, vec![Arc::clone(&plain), Arc::clone(&packed)]).unwrap();
    assert!(is_packed(both.column(1).data_type()) && !is_packed(both.column(0).data_type()));
    assert_eq!(unpack(&schema, &both).unwrap().column(1), &plain);
    for column in both.columns() {
        let text = Text::of(column).unwrap();
        assert_eq!((0..4).map(|row| text.get(row)).collect::<Vec<_>>(), texts);
        let (mut lengths, mut asked) = (vec![], 0);
        text.map(
            |t| {
                asked += 1;
                t.map(str::len)
            },
            |n| lengths.push(n),
        );
        assert_eq!(lengths, [Some(1), None, Some(2), Some(1)]);
        assert!(asked == 4 || asked == 3);
    }
    let chosen = BooleanArray::from(vec![true, false, true, true]);
    let rows = Rows::new(both.clone(), Some(chosen)).unwrap();
    assert_eq!((rows.len(), Text::of(&rows.column(1).unwrap()).unwrap().get(1)), (3, Some("bb")));
    let pieces: Vec<_> = rows.cut(3).map(|piece| unpack(&schema, &piece.packed().unwrap()).unwrap()).collect();
    assert_eq!(pieces.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(pieces[0].column(1).as_string::<i32>().value(1), "bb");
    assert!(Rows::new(both, Some(BooleanArray::from(vec![true]))).is_err());
    let repeated = repeated("t", 3).unwrap();
    assert_eq!(Text::of(&repeated).unwrap().get(2), Some("t"));
}
