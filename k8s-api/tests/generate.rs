//! The checked-in messages match `proto/cri.proto`.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set to write the file instead of comparing it.
const WRITE: &str = "UPDATE_GENERATED";

#[test]
fn cri_messages_match_the_proto_file() {
    let checked_in = root().join("k8s-api/src/generated/runtime.v1.rs");
    let generated = generate();
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(checked_in.parent().unwrap()).unwrap();
        fs::write(&checked_in, &generated).unwrap();
    }
    let present = fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(
        present == generated,
        "{} differs from proto/cri.proto; update it with: {WRITE}=1 cargo test -p k8s-api",
        checked_in.display()
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn generate() -> String {
    let proto = root().join("proto");
    let messages = protox::compile([proto.join("cri.proto")], [&proto]).unwrap();
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    prost_build::Config::new().btree_map(["."]).out_dir(&out).compile_fds(messages).unwrap();
    fs::read_to_string(out.join("runtime.v1.rs")).unwrap()
}
