//! What stops the start, and what holds when nothing is said.

use super::*;

fn read(set: &[(&str, &str)]) -> Result<Config, BadConfig> {
    Config::read(&Environment::of(set))
}

#[test]
fn without_anything_set_the_defaults_hold() {
    let config = read(&[]).unwrap();
    assert_eq!(config.cluster.as_str(), "Kubernetes");
    assert_eq!(config.mark, 1337);
    assert_eq!(config.drain, Duration::from_secs(5));
    let control = "https://ambit-control.ambit-system.svc:15012";
    assert_eq!(config.discovery.unwrap().address, control);
}

#[test]
fn a_fake_authority_stops_the_start_with_a_sentence() {
    let error = read(&[("FAKE_CA", "true")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("FAKE_CA: there is no fake certificate authority")
    );
    assert!(read(&[("FAKE_CA", "false")]).is_ok());
}

#[test]
fn what_is_not_served_and_what_is_not_a_value_stops_the_start() {
    for (name, value) in [
        ("FAKE_CA", "TRUE"),
        ("FAKE_CA", "1"),
        ("FAKE_CA", "perhaps"),
        ("TLS12_ENABLED", "1"),
        ("ENABLE_ORIG_SRC", "False"),
        ("COMPLIANCE_POLICY", "fips"),
        ("PROXY_MODE", "dedicated"),
        ("PROXY_MODE", "foo"),
        ("PACKET_MARK", "0"),
        ("SECRET_TTL", "0s"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "0"),
        ("MAX_CONNECTIONS_PER_WORKLOAD", "0"),
        ("CRL_PATH", "/crl.pem"),
        ("PROXY_CONFIG", "concurrency: 2"),
        ("PREFERED_SERVICE_NAMESPACE", "shop"),
        ("CA_ADDRESS", ""),
        ("IPV6_ENABLED", "perhaps"),
        ("SECRET_TTL", "soon"),
        ("HTTP2_FRAME_SIZE", "1"),
        ("PACKET_MARK", "-1"),
        ("ZTUNNEL_WORKER_THREADS", "many"),
        ("INSTANCE_IP", "here"),
        ("LOG_FORMAT", "xml"),
    ] {
        let error = read(&[(name, value)]).unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

#[test]
fn an_empty_discovery_address_means_none() {
    assert!(read(&[("XDS_ADDRESS", "")]).unwrap().discovery.is_none());
}

#[test]
fn the_drain_follows_the_grace_period() {
    for (grace, drain) in [("30", 25), ("10", 9), ("1", 0), ("0", 5)] {
        let config = read(&[("TERMINATION_GRACE_PERIOD_SECONDS", grace)]).unwrap();
        assert_eq!(config.drain, Duration::from_secs(drain));
    }
    let grace = ("TERMINATION_GRACE_PERIOD_SECONDS", "30");
    let both = [grace, ("CONNECTION_TERMINATION_DEADLINE", "2s")];
    assert_eq!(read(&both).unwrap().drain, Duration::from_secs(2));
}

/// The variables that the source reads: words of capitals between quotes.
fn variables() -> Vec<&'static str> {
    let capital = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let sources = [
        include_str!("../config.rs"),
        include_str!("../../../net/src/settings.rs"),
    ];
    let quoted = sources
        .into_iter()
        .flat_map(|source| source.split('"').skip(1).step_by(2));
    let variable = |text: &&str| text.len() > 3 && text.bytes().all(capital);
    quoted.filter(variable).collect()
}

#[test]
fn every_setting_is_in_the_readme() {
    let readme = include_str!("../../../README.md");
    let variables = variables();
    assert!(
        variables.len() > 30,
        "the search finds too little: {variables:?}"
    );
    let refused = NOT_SERVED.map(|(name, _)| name).into_iter();
    let fixed = FIXED.into_iter().map(|(name, _, _)| name);
    let refused: Vec<_> = refused.chain(fixed).chain(["PROXY_MODE"]).collect();
    for variable in variables {
        let documented = readme.contains(&format!("`{variable}`"));
        // What only stops the start says so itself.
        assert!(
            documented || refused.contains(&variable),
            "{variable} is not in the table of settings in README.md"
        );
    }
}

#[test]
fn workers_follow_what_is_told_then_the_limit_then_the_request() {
    let workers = |set: &[(&str, &str)]| read(set).unwrap().workers;
    let (limit, request) = (
        ("ZTUNNEL_CPU_LIMIT", "3"),
        ("ZTUNNEL_RESOURCE_CPU_REQUEST", "64"),
    );
    assert_eq!(
        workers(&[limit, request, ("ZTUNNEL_WORKER_THREADS", "7")]),
        7
    );
    assert_eq!(workers(&[limit, request]), 3);
    assert_eq!(workers(&[request]), 64);
}
