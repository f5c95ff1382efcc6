//! What goes, what stays and what comes back, as a table of looks.

use std::path::PathBuf;

use super::*;
use crate::source::load;

const STORED: &str = "
workloads:
- {uid: u, name: w, namespace: n, workloadIps: [10.0.0.1], protocol: TCP}
policies:
- {name: p, namespace: n, scope: Namespace, action: Deny}
";
/// One that is good, and two that never were.
const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {ports: [{port: 80}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: n}, spec: {action: NO}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d, namespace: n}, spec: {host: 7, trafficPolicy: {tls: {mode: SIMPLE}}}}
";

/// One that nobody can name.
const NAMELESS: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {namespace: n}, spec: {}}";

/// After how many milliseconds there are which files, whether all is in force, and how long it may be.
type Look<'a> = (u64, &'a [(&'a str, &'a str)], bool, Option<u64>);

/// What is loaded from files as of `now`, after what was.
fn look(
    files: &[(&str, &str)],
    (before, leaving): &(Loaded, Leaving),
    now: Instant,
) -> (Loaded, Leaving) {
    let texts = files.iter().copied();
    let texts = texts.map(|(name, text)| (PathBuf::from(name), text.to_owned()));
    let mut loaded = load(&texts.collect(), Some(before));
    let leaving = leaving.keep(before, &mut loaded, now);
    (loaded, leaving)
}

#[test]
fn what_is_in_no_file_stays_for_as_long_as_it_may_be_on_its_way() {
    let begun = Instant::now();
    let (objects, stored) = (("a.yaml", OBJECTS), ("s.yaml", STORED));
    let (moved, stored_too) = (("b.yaml", OBJECTS), ("t.yaml", STORED));
    let nameless = ("n.yaml", NAMELESS);
    let all = &[objects, stored, nameless][..];
    let emptied = &[("a.yaml", ""), ("s.yaml", "#"), ("n.yaml", "---")][..];
    let (full, none) = (true, false);
    let cases: [(&str, &[Look<'_>]); 6] = [
        ("there", &[(0, all, full, None), (5000, all, full, None)]),
        (
            "gone for good",
            &[
                (100, &[], full, Some(1000)),
                (1099, &[], full, Some(1)),
                (1100, &[], none, None),
                (1200, all, full, None),
            ],
        ),
        (
            "back",
            &[
                (0, &[], full, Some(1000)),
                (999, all, full, None),
                // As if never gone.
                (1000, &[], full, Some(1000)),
                (2000, &[], none, None),
            ],
        ),
        (
            "moved",
            &[
                (0, &[stored, nameless], full, Some(1000)),
                (100, &[moved, stored, nameless], full, None),
                (200, &[moved, nameless], full, Some(1000)),
                (300, &[moved, stored_too, nameless], full, None),
            ],
        ),
        (
            "one after the other",
            &[
                (0, &[stored, nameless], full, Some(1000)),
                (600, &[], full, Some(400)),
                (700, &[objects], full, Some(900)),
            ],
        ),
        (
            "emptied on the way",
            &[
                (0, &[], full, Some(1000)),
                (500, emptied, full, None),
                (5000, emptied, full, None),
                (5100, &[], full, Some(1000)),
                (6100, &[], none, None),
            ],
        ),
    ];
    for (what, looks) in cases {
        let mut at = look(all, &<(Loaded, Leaving)>::default(), begun);
        let world = at.0.world.clone();
        assert_eq!((world.denials.len(), world.refused.len()), (2, 1));
        assert_eq!(world.stored.addresses.len(), 1);
        for (millis, files, all, again) in looks {
            let now = begun + Duration::from_millis(*millis);
            at = look(files, &at, now);
            let (loaded, leaving) = &at;
            let expected = if *all { &world } else { &World::default() };
            assert_eq!(&loaded.world, expected, "{what}, {millis} ms");
            let again = again.map(Duration::from_millis);
            assert_eq!(leaving.look_again(now), again, "{what}, {millis} ms");
        }
    }
}

#[test]
fn a_label_that_goes_with_the_policy_of_its_service_stays_as_long_as_that() {
    let service = |labels: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: n, labels: {labels}}}, spec: {{ports: [{{port: 80}}]}}}}\n---\n"
        )
    };
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: n}, \
                  spec: {targetRefs: [{group: '', kind: Service, name: web}]}}";
    let (bound, plain) = (service("{istio.io/use-waypoint: w}"), service("{}"));
    let last = load(&[("a.yaml".into(), plain.clone())].into(), None).world;
    let begun = Instant::now();
    let both = bound.clone() + policy;
    let first = look(&[("a.yaml", &both)], &<_>::default(), begun);
    let left = look(&[("a.yaml", &plain)], &first, begun);
    assert_eq!(left.0.world, first.0.world);
    let still = look(&[("a.yaml", &plain)], &left, begun + GONE / 2);
    assert_eq!(still.0.world, first.0.world);
    let gone = look(&[("a.yaml", &plain)], &still, begun + GONE);
    assert_eq!((gone.0.world, gone.1), (last.clone(), Leaving::default()));
    // One after the other does not take longer.
    let left = look(&[("a.yaml", &bound)], &first, begun);
    let left = look(&[("a.yaml", &plain)], &left, begun + GONE / 2);
    assert_eq!(left.0.world, first.0.world);
    let gone = look(&[("a.yaml", &plain)], &left, begun + GONE);
    assert_eq!((gone.0.world, gone.1), (last.clone(), Leaving::default()));
    // The label alone goes at once, and so it does with the policy of another.
    let alone = look(&[("a.yaml", &(plain.clone() + policy))], &first, begun);
    assert_eq!(alone.0.world.services, last.services);
    let of_other = both.replace("name: web}]", "name: other}]");
    let apart = look(&[("a.yaml", &of_other)], &<_>::default(), begun);
    let apart = look(&[("a.yaml", &plain)], &apart, begun);
    assert_eq!(apart.0.world.services, last.services);
}

#[test]
fn what_is_there_and_changed_counts_at_once() {
    let begun = Instant::now();
    let first = look(&[("a.yaml", OBJECTS)], &<_>::default(), begun);
    let changed = OBJECTS.replace("port: 80", "port: 81");
    let (loaded, leaving) = look(&[("a.yaml", &changed)], &first, begun);
    assert_ne!(loaded.world.services, first.0.world.services);
    assert_eq!(leaving, Leaving::default());
}
