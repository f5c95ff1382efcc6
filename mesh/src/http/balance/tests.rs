//! Who is chosen, and a second way to choose that random endpoints must agree with.

use proptest::prelude::*;

use super::*;

fn load(in_flight: u32, millis: u64) -> Load {
    Load {
        in_flight,
        latency: Duration::from_millis(millis),
    }
}

/// How often each of these is chosen, over many seeds.
fn counts(candidates: &[(u32, Load)]) -> Vec<usize> {
    let mut counts = vec![0; candidates.len()];
    let places: Vec<usize> = (0..candidates.len()).collect();
    for seed in 0..10_000_u64 {
        let capacity = |at: &usize| candidates[*at].0;
        let load = |at: &usize| candidates[*at].1;
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        counts[*choose(&places, seed, capacity, load).unwrap()] += 1;
    }
    counts
}

#[test]
fn nobody_and_the_only_one_are_no_choice() {
    let of = |list: &[u32]| choose(list, 7, |_| 1, |_| Load::default()).copied();
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[5]), Some(5));
    assert_eq!(two_choices(&[0, 0], 7), None);
    assert_eq!(two_choices(&[0, 3], 7), Some((1, 1)));
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for count in counts(&[(1, Load::default()); 4]) {
        assert!((2300..2700).contains(&count), "{count}");
    }
}

#[test]
fn the_busiest_is_never_chosen_where_there_are_others() {
    let counts = counts(&[(1, load(9, 10)), (1, load(0, 10)), (1, load(0, 10))]);
    assert_eq!(counts[0], 0);
}

#[test]
fn waiting_and_taking_long_are_both_load() {
    for (one, other, busier) in [
        (load(1, 10), load(0, 10), true),
        (load(0, 20), load(0, 10), true),
        (load(0, 30), load(1, 10), true),
        (load(0, 19), load(1, 10), false),
        // Nobody knows how long the other takes: only what waits counts.
        (load(0, 1000), load(0, 0), false),
        (load(1, 1000), load(0, 0), true),
        (load(0, 1000), load(1, 0), false),
        (
            Load {
                in_flight: u32::MAX,
                latency: Duration::MAX,
            },
            load(0, 1),
            true,
        ),
    ] {
        assert_eq!(is_busier((one, 1), (other, 1)), busier, "{one:?} {other:?}");
        assert!(!(busier && is_busier((other, 1), (one, 1))));
    }
    // Twice the capacity carries twice the load.
    assert!(!is_busier((load(2, 10), 2), (load(1, 10), 1)));
    assert!(is_busier((load(3, 10), 2), (load(1, 10), 1)));
    assert!(!is_busier((load(0, 10), 1), (load(0, 10), 2)));
}

#[test]
fn capacity_is_a_share() {
    let counts = counts(&[(3, Load::default()), (1, Load::default())]);
    // Both are always the two, and equally idle: so the first that is drawn.
    assert!((7300..7700).contains(&counts[0]), "{counts:?}");
}

#[test]
fn an_average_jumps_up_and_comes_down_with_time() {
    let (second, none) = (Duration::from_secs(1), Duration::ZERO);
    let ms = Duration::from_millis;
    assert_eq!(peak_ewma(none, ms(10), none), ms(10));
    assert_eq!(peak_ewma(ms(10), ms(500), none), ms(500));
    assert_eq!(peak_ewma(ms(500), ms(10), none), ms(500));
    let later = peak_ewma(ms(500), ms(10), second);
    assert!(later < ms(460) && later > ms(440), "{later:?}");
    let much_later = peak_ewma(ms(500), ms(10), second * 100);
    assert!(much_later < ms(11), "{much_later:?}");
}

/// Each of the two by going through all that the weights stand for, one by one.
fn naive(weights: &[u32], seed: u64) -> Option<(usize, usize)> {
    let spread = |but: Option<usize>| {
        let all = weights
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != but);
        all.flat_map(|(at, weight)| std::iter::repeat_n(at, *weight as usize))
            .collect::<Vec<_>>()
    };
    let draw = |list: &[usize], random: u64| {
        let at = u128::from(random) * list.len() as u128 / (1 << 64);
        list.get(usize::try_from(at).unwrap()).copied()
    };
    let first = draw(&spread(None), mixed(seed))?;
    Some((
        first,
        draw(&spread(Some(first)), mixed(!seed)).unwrap_or(first),
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn two_are_drawn_as_from_a_list_of_all(weights in prop::collection::vec(0_u32..5, 0..8), seed in any::<u64>()) {
        prop_assert_eq!(two_choices(&weights, seed), naive(&weights, seed));
        let loads: Vec<u32> = (0..weights.len()).map(|at| (at * 7 % 5) as u32).collect();
        let places: Vec<usize> = (0..weights.len()).collect();
        let load = |at: &usize| load(loads[*at], 10);
        let chosen = choose(&places, seed, |at| weights[*at], load).copied();
        let expected = naive(&weights, seed).map(|(one, other)| {
            // In fractions of capacity, compared without dividing.
            let cost = |at: usize| u64::from(loads[at] + weights[at]);
            let (a, b) = (cost(one) * u64::from(weights[other]), cost(other) * u64::from(weights[one]));
            if a > b { other } else { one }
        });
        prop_assert_eq!(chosen, expected);
    }

    #[test]
    fn an_average_lies_between_what_it_was_and_the_sample(old in 0_u64..10_000, sample in 0_u64..10_000, elapsed in 0_u64..100_000) {
        let ms = Duration::from_millis;
        let new = peak_ewma(ms(old), ms(sample), ms(elapsed));
        prop_assert!(new >= ms(sample) && new <= ms(old.max(sample)));
    }
}
