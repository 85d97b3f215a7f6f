//! The arrows that must never exist, as data. To forbid something new, add a row; the tests take it from there.
//!
//! Three tables, from cheap to dear: what source code may name, what manifests may declare, what may arrive through
//! other packages. A rule that a lint can say better is in the package's `clippy.toml` (clocks, environment, hash
//! maps).

/// What source files may not name.
#[derive(Debug)]
pub(crate) struct SourceRule {
    /// The arrow, as the message names it.
    pub arrow: &'static str,
    /// Folders or files, from the workspace root.
    pub within: &'static [&'static str],
    /// Folders or files among them that the rule leaves out.
    pub except: &'static [&'static str],
    /// Whether code under `cfg(test)` is left out: tests may well use files or a runtime.
    pub tests: Tests,
    /// What is forbidden.
    pub forbids: Forbidden,
    /// The reason, as the end of a sentence.
    pub why: &'static str,
}

/// Whether a rule holds for code that exists only under `cfg(test)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    Exempt,
    Included,
}

/// What a source rule forbids.
#[derive(Debug)]
pub(crate) enum Forbidden {
    /// These paths and all below them.
    Paths(&'static [&'static str]),
    /// `select!` that does not begin with `biased;`.
    UnbiasedSelect,
}

/// What a package's manifest may not declare.
#[derive(Debug)]
pub(crate) struct ManifestRule {
    pub package: &'static str,
    /// Kinds as `cargo metadata` calls them; the normal kind is `normal` here.
    pub kinds: &'static [&'static str],
    pub forbids: &'static [&'static str],
    pub why: &'static str,
}

/// What may not arrive in a package through any other.
#[derive(Debug)]
pub(crate) struct TreeRule {
    pub package: &'static str,
    /// Arguments of `cargo tree` besides the package.
    pub arguments: &'static [&'static str],
    pub forbids: &'static [&'static str],
    pub why: &'static str,
}

const IO_CRATES: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_stream",
    "futures",
    "futures_util",
    "async_trait",
    "kube",
    "axum",
    "hyper",
    "hyper_util",
    "tower",
    "tower_http",
    "http",
    "http_body",
    "http_body_util",
    "reqwest",
    "prometheus",
    "tracing",
    "tracing_subscriber",
    "clap",
    "rand",
    "rand_chacha",
    "tempfile",
    "indicatif",
    "std::fs",
    "std::env",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::sync::mpsc",
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "jiff::tz::TimeZone::system",
    "uuid::Uuid::new_v4",
    "uuid::Uuid::now_v7",
];

const MACHINE_TIME_AND_ORDER: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "std::thread::sleep",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
    "tokio::fs",
    "uuid::Uuid::new_v4",
    "uuid::Uuid::now_v7",
    "rand::rng",
    "rand::random",
    "rand::thread_rng",
];

/// The arrows that source code shows.
pub(crate) const SOURCE_RULES: &[SourceRule] = &[
    SourceRule {
        arrow: "core → I/O",
        within: &["controller/src/core"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(IO_CRATES),
        why: "the core decides without runtime, cluster client, files, environment, clocks or randomness, so that a test \
              can replay every decision; take it as an event or a port's data instead",
    },
    SourceRule {
        arrow: "core, simulated API server's state → unordered collections",
        within: &["controller/src/core", "simulator/src/state"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(&[
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::hash::RandomState",
        ]),
        why: "their order differs from run to run, and the same seed must give the same events",
    },
    SourceRule {
        arrow: "core → outer layers",
        within: &["controller/src/core"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "crate::runtime",
            "crate::http",
            "crate::adapter",
            "crate::app",
            "crate::args",
            "crate::extension",
            "crate::metrics",
            "crate::telemetry",
        ]),
        why: "the core is the innermost layer; what it needs is handed to it",
    },
    SourceRule {
        arrow: "config → I/O",
        within: &["controller/src/config"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(IO_CRATES),
        why: "what a configuration means depends on its text and on what is handed in with it, nothing else",
    },
    SourceRule {
        arrow: "config → outer layers",
        within: &["controller/src/config"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "crate::runtime",
            "crate::http",
            "crate::adapter",
            "crate::app",
            "crate::args",
            "crate::extension",
            "crate::metrics",
            "crate::telemetry",
        ]),
        why: "a configuration is data that the outer layers read; what it falls back on is handed to it",
    },
    SourceRule {
        arrow: "ports → implementations",
        within: &["controller/src/ports"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "crate::adapter",
            "crate::runtime",
            "crate::http",
            "crate::app",
            "crate::args",
            "crate::extension",
            "kube",
            "axum",
            "hyper",
            "tower_http",
        ]),
        why: "a port is a trait and its data, implemented by the adapter and by the simulator alike",
    },
    SourceRule {
        arrow: "runtime → adapter, cluster client, HTTP",
        within: &["controller/src/runtime"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "crate::adapter",
            "crate::http",
            "crate::app",
            "crate::args",
            "crate::extension",
            "kube",
            "axum",
            "tower_http",
        ]),
        why: "the runtime knows only ports, so that the simulator can run it on its own cluster and clock",
    },
    SourceRule {
        arrow: "http → cluster",
        within: &["controller/src/http"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "crate::ports::cluster",
            "crate::adapter",
            "crate::app",
            "crate::args",
            "crate::extension",
            "kube",
        ]),
        why: "requests reach the cluster only through the controller's handle, whose owner is the one writer",
    },
    SourceRule {
        arrow: "runtime, http, ports → machine time, unordered collections, tokio::fs",
        within: &[
            "controller/src/runtime",
            "controller/src/http",
            "controller/src/ports",
        ],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(MACHINE_TIME_AND_ORDER),
        why: "under paused time the same seed must give the same events; use the clock, entropy and report store ports",
    },
    SourceRule {
        arrow: "runtime, ports → sockets",
        within: &["controller/src/runtime", "controller/src/ports"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(&[
            "tokio::net",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
        ]),
        why: "a socket wakes in the order of the machine, not of virtual time",
    },
    SourceRule {
        arrow: "controller → cluster client outside the adapter",
        within: &["controller/src"],
        except: &[
            "controller/src/adapter",
            "controller/src/app.rs",
            "controller/src/main.rs",
        ],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&["kube"]),
        why: "the library is built without the feature `kube`; only the adapter and the composition root know the client",
    },
    SourceRule {
        arrow: "controller → kube-runtime's own clocks and orders",
        within: &["controller/src"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "kube::runtime::Controller",
            "kube::runtime::controller",
            "kube::runtime::events",
            "kube::runtime::predicates",
            "kube::runtime::WatchStreamExt::predicate_filter",
        ]),
        why: "these read the machine's clock or poll hash maps, which no seed decides; `watcher` and our own loop do not",
    },
    SourceRule {
        arrow: "controller → simulator",
        within: &["controller/src", "controller/tests", "controller/benches"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&["simulator"]),
        why: "not even in tests: Cargo would build the controller twice and the types would differ",
    },
    SourceRule {
        arrow: "simulated API server's state → I/O",
        within: &["simulator/src/state"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(IO_CRATES),
        why: "the state is pure data with versions; time, randomness and transport are handed to it",
    },
    SourceRule {
        arrow: "simulated API server's state → outer layers",
        within: &["simulator/src/state"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&[
            "controller",
            "crate::apiserver",
            "crate::callback",
            "crate::checker",
            "crate::clock",
            "crate::cluster",
            "crate::event_log",
            "crate::faults",
            "crate::faulty_cluster",
            "crate::fleet",
            "crate::job",
            "crate::kubelet",
            "crate::layer",
            "crate::network",
            "crate::node",
            "crate::options",
            "crate::report_store",
            "crate::rng",
            "crate::routing",
            "crate::run",
            "crate::serve",
            "crate::world",
        ]),
        why: "the state is the innermost layer of the simulator; what it needs is handed to it",
    },
    SourceRule {
        arrow: "simulator's library → cluster client",
        within: &["simulator/src"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(&["kube", "controller::adapter"]),
        why: "the simulated cluster must not share the client's idea of the API; only its tests use the client",
    },
    SourceRule {
        arrow: "simulator → unordered collections, unseeded randomness, tokio::fs",
        within: &["simulator/src"],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::Paths(&[
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::hash::RandomState",
            "std::thread::sleep",
            "tokio::fs",
            "uuid::Uuid::new_v4",
            "uuid::Uuid::now_v7",
            "rand::rng",
            "rand::random",
            "rand::thread_rng",
            "rand_chacha::rand_core::OsRng",
        ]),
        why: "the same seed must give the same events; draw from the named stream of the seed and keep things in order",
    },
    SourceRule {
        arrow: "select! in no order",
        within: &[
            "controller/src/runtime",
            "controller/src/http",
            "simulator/src",
        ],
        except: &[],
        tests: Tests::Exempt,
        forbids: Forbidden::UnbiasedSelect,
        why: "without `biased;` tokio picks the ready branch by chance, which no seed decides",
    },
    SourceRule {
        arrow: "e2e → product crates",
        within: &["e2e"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&["controller", "simulator"]),
        why: "these tests see what a user of the installed controller sees, nothing inside it",
    },
    SourceRule {
        arrow: "xtask → product crates",
        within: &["xtask/src"],
        except: &[],
        tests: Tests::Included,
        forbids: Forbidden::Paths(&["controller", "simulator"]),
        why: "the project's commands must build and run whatever state the product is in; they start it as a process",
    },
];

/// The arrows that manifests show.
pub(crate) const MANIFEST_RULES: &[ManifestRule] = &[
    ManifestRule {
        package: "controller",
        kinds: &["normal", "dev", "build"],
        forbids: &["simulator", "e2e", "xtask"],
        why: "not even for tests: Cargo would build the controller twice and the types would differ",
    },
    ManifestRule {
        package: "simulator",
        kinds: &["normal", "build"],
        forbids: &["kube", "e2e", "xtask"],
        why: "the simulated cluster must not share the client's idea of the API; only its tests use the client",
    },
    ManifestRule {
        package: "e2e",
        kinds: &["normal", "dev", "build"],
        forbids: &["controller", "simulator", "xtask"],
        why: "these tests see what a user of the installed controller sees, nothing inside it",
    },
    ManifestRule {
        package: "xtask",
        kinds: &["normal", "dev", "build"],
        forbids: &["controller", "simulator", "e2e"],
        why: "the project's commands must build and run whatever state the product is in",
    },
];

/// The arrows that only the resolved dependencies show.
pub(crate) const TREE_RULES: &[TreeRule] = &[
    TreeRule {
        package: "controller",
        arguments: &["--no-default-features", "--edges", "normal"],
        forbids: &["kube", "kube-client", "kube-runtime", "kube-core"],
        why: "the library without its default features is what the simulator runs; it must not bring the cluster client",
    },
    TreeRule {
        package: "simulator",
        arguments: &["--edges", "normal"],
        forbids: &["kube", "kube-client", "kube-runtime", "kube-core"],
        why: "the simulated cluster must not share the client's idea of the API; only its tests use the client",
    },
    TreeRule {
        package: "xtask",
        arguments: &["--edges", "normal,build,dev"],
        forbids: &["controller", "simulator", "kube", "axum", "tokio"],
        why: "the project's commands build in seconds, whatever state the product is in",
    },
];
