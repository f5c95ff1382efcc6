//! Roots, tokens and the server's name.

use rcgen::SanType;
use tokio::io::duplex;

use super::*;
use crate::tls::authority::{Authority, Leaf};

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ambit-channel-{}-{name}", std::process::id()));
    fs::write(&path, text).unwrap();
    path
}

fn server(issued: tls::Issued) -> tokio_rustls::TlsAcceptor {
    let chain = issued.chain[..1]
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .collect();
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, issued.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

#[tokio::test]
async fn the_server_proves_its_name_by_the_roots_of_the_moment() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let leaf = Leaf::with(vec![SanType::DnsName("control.mesh".try_into().unwrap())]);
    let roots = file("roots", &old.root());
    let shake = async |to: &Server, acceptor: &tokio_rustls::TlsAcceptor| {
        let (near, far) = duplex(1 << 16);
        tokio::join!(to.secure(near), acceptor.accept(far))
            .0
            .map(|_| ())
    };
    let to = Server::new(
        "https://control.mesh:15012",
        Roots::File(roots.clone()),
        None,
    )
    .unwrap();
    let (before, after) = (server(old.issue(&leaf)), server(new.issue(&leaf)));
    assert_eq!(shake(&to, &before).await, Ok(()));
    assert_eq!(
        shake(&to, &after).await,
        Err(ChannelError::Tls(TlsError::UnknownIssuer))
    );
    fs::write(&roots, new.root()).unwrap();
    assert_eq!(shake(&to, &after).await, Ok(()));
    fs::remove_file(&roots).unwrap();
    assert_eq!(
        shake(&to, &after).await,
        Err(ChannelError::File(roots.clone(), io::ErrorKind::NotFound))
    );

    let elsewhere =
        |name| Server::new("https://10.0.0.1:15012", Roots::Pem(new.root()), name).unwrap();
    assert_eq!(
        shake(&elsewhere(Some("control.mesh")), &after).await,
        Ok(())
    );
    assert!(matches!(
        shake(&elsewhere(None), &after).await,
        Err(ChannelError::Tls(_))
    ));
}

#[test]
fn addresses_are_https_with_a_host() {
    let roots = || Roots::Pem(String::new());
    for good in [
        "https://control.mesh:15012",
        "https://[::1]:15012",
        "https://10.0.0.1",
    ] {
        assert!(Server::new(good, roots(), None).is_ok(), "{good}");
    }
    for bad in [
        "http://control.mesh:15012",
        "control.mesh:15012",
        "",
        "https://",
        "https://a b",
    ] {
        assert_eq!(
            Server::new(bad, roots(), None).err(),
            Some(ChannelError::BadAddress(bad.into()))
        );
    }
}

#[test]
fn roots_and_tokens_are_files_or_literals() {
    assert_eq!(
        Roots::from_setting("/etc/root.pem"),
        Roots::File("/etc/root.pem".into())
    );
    assert!(matches!(
        Roots::from_setting("-----BEGIN CERTIFICATE-----"),
        Roots::Pem(_)
    ));
    assert!(matches!(
        Roots::Pem("nothing".into()).read(),
        Err(ChannelError::NoRoots(_))
    ));
    assert_eq!(
        Token::from_setting("./token"),
        Token::File("./token".into())
    );
    assert_eq!(
        Token::from_setting("ey.J.x"),
        Token::Literal("ey.J.x".into())
    );
    assert_eq!(format!("{:?}", Token::Literal("secret".into())), "Token(…)");
}

#[test]
fn requests_carry_token_cluster_and_headers() {
    let path = file("token", "first\n");
    let headers = vec![("X-Team".to_owned(), "shop".to_owned())];
    let caller = Caller {
        token: Some(Token::File(path.clone())),
        cluster: "Kubernetes".into(),
        headers,
    };
    let header = |name: &str| {
        let request = caller.request(()).unwrap();
        request
            .metadata()
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    assert_eq!(header("authorization").unwrap(), "Bearer first");
    fs::write(&path, "second").unwrap();
    assert_eq!(header("authorization").unwrap(), "Bearer second");
    assert_eq!(
        (
            header("clusterid").unwrap().as_str(),
            header("x-team").unwrap().as_str()
        ),
        ("Kubernetes", "shop")
    );
    fs::write(&path, "two\nlines").unwrap();
    assert_eq!(
        caller.request(()).err(),
        Some(ChannelError::BadHeader("authorization".into()))
    );
    fs::remove_file(&path).unwrap();
    assert!(matches!(caller.request(()), Err(ChannelError::File(..))));
}
