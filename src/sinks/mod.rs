//! Where events go. A sink holds no business rules: it writes the rows that it is given.

pub mod bronze;
pub mod dead_letters;
pub mod parquet;
