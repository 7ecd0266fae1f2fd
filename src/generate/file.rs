//! Events into a file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{GenerateOptions, Made, Profile, Truth, generate};
use crate::error::{Error, Result};

/// Writes events as lines of JSON; a name that ends in `.gz` or `.zst` is compressed. The file appears whole or not at
/// all.
///
/// # Errors
/// As [`generate`]; [`Error::Source`] where the file cannot be written.
pub fn generate_file(
    profile: Profile,
    options: &GenerateOptions,
    path: &Path,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Truth> {
    let failed = |e: io::Error| Error::source(path.display().to_string(), format!("cannot write events there: {e}"));
    // A link is followed, never replaced.
    let link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    let behind = if link { fs::canonicalize(path).ok() } else { Some(path.to_owned()) };
    // A pipe or a device is written to as it is; so is a link to what is not there.
    let special = behind.is_none() || fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
    let place = behind.as_deref().unwrap_or(path);
    let target = if special { path.to_owned() } else { part_of(place) };
    let written = write(profile, options, path, &target, progress, &failed);
    match written {
        Ok(truth) if special => Ok(truth),
        Ok(truth) => fs::rename(&target, place).map_err(failed).map(|()| truth),
        Err(e) => {
            if !special {
                // What is half done helps nobody; the error that led here is the one to tell.
                let _ = fs::remove_file(&target);
            }
            Err(e)
        }
    }
}

/// Writes events as lines of JSON to `out`, which errors call `place`.
///
/// # Errors
/// As [`generate`]; [`Error::Source`] where it cannot be written to.
pub fn generate_into(
    profile: Profile,
    options: &GenerateOptions,
    place: &str,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Truth> {
    let failed = |e: io::Error| Error::source(place, format!("cannot write events there: {e}"));
    write_lines(profile, options, out, progress, &failed)
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

fn write(
    profile: Profile,
    options: &GenerateOptions,
    path: &Path,
    target: &Path,
    progress: &mut dyn FnMut(u64) -> Result<()>,
    failed: &dyn Fn(io::Error) -> Error,
) -> Result<Truth> {
    let file = File::create(target).map_err(failed)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => {
            let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::new(4));
            let truth = write_lines(profile, options, &mut out, progress, failed)?;
            out.finish().map_err(failed)?;
            Ok(truth)
        }
        Some("zst") => {
            let mut out = zstd::Encoder::new(file, 1).map_err(failed)?;
            let truth = write_lines(profile, options, &mut out, progress, failed)?;
            out.finish().map_err(failed)?;
            Ok(truth)
        }
        _ => {
            let mut out = file;
            write_lines(profile, options, &mut out, progress, failed)
        }
    }
}

fn write_lines(
    profile: Profile,
    options: &GenerateOptions,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64) -> Result<()>,
    failed: &dyn Fn(io::Error) -> Error,
) -> Result<Truth> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut line_out = |made: Made<'_>| {
        out.write_all(made.line).map_err(failed)?;
        out.write_all(b"\n").map_err(failed)
    };
    let truth = generate(profile, options, &mut line_out, progress)?;
    out.flush().map_err(failed)?;
    Ok(truth)
}
