//! See `tests::parsers::source`.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| tests::parsers::source(data));

// Half of the time whole lines move, so that what is tried mostly stays a file of manifests.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(2) {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut lines: Vec<Vec<u8>> = data[..size]
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let mut left = seed / 2;
    let mut draw = |below: usize| {
        left = left.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (left >> 16) as usize % below
    };
    let (one, other) = (draw(lines.len()), draw(lines.len()));
    let value = |line: &[u8]| line.iter().position(|byte| *byte == b':').map(|at| at + 1);
    match draw(5) {
        0 => drop(lines.remove(one)),
        1 => lines.insert(other, lines[one].clone()),
        2 => lines.swap(one, other),
        // The value of one for that of another.
        3 => {
            if let (Some(at), Some(from)) = (value(&lines[one]), value(&lines[other])) {
                let taken = lines[other][from..].to_vec();
                lines[one].truncate(at);
                lines[one].extend(taken);
            }
        }
        // A whole document goes, or comes once more.
        _ => {
            let from = lines[..one]
                .iter()
                .rposition(|line| line == b"---")
                .unwrap_or(0);
            let rest = lines[one..].iter().position(|line| line == b"---");
            let to = rest.map_or(lines.len(), |rest| one + rest);
            if draw(2) == 0 {
                lines.drain(from..to);
            } else {
                lines.extend_from_within(from..to);
            }
        }
    }
    let text = lines.join(&b'\n');
    let size = text.len().min(max_size);
    data[..size].copy_from_slice(&text[..size]);
    size
});
