//! Made-up events a second, without a file.

use std::hint::black_box;

use _core::generate::{GenerateOptions, Made, Profile, generate};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("generate");
    let options = GenerateOptions { total: 200_000, ..Default::default() };
    group.throughput(Throughput::Elements(options.total));
    group.sample_size(10);
    group.bench_function("ecommerce", |b| {
        b.iter(|| {
            let mut sink = |made: Made<'_>| {
                black_box(made.line);
                Ok(())
            };
            generate(Profile::Ecommerce, &options, &mut sink, &mut |_| Ok(()))
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
