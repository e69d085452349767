//! Generates Rust from the `.proto` files of this folder, without a protoc binary.

use prost::Message;

const FILES: [&str; 10] = [
    "opamp/v1/opamp.proto",
    "muster/edge/v1/edge.proto",
    "muster/cluster/v1/cluster.proto",
    "muster/store/v1/store.proto",
    "muster/v1/agents.proto",
    "muster/v1/families.proto",
    "muster/v1/rollouts.proto",
    "muster/v1/governance.proto",
    "muster/v1/admin.proto",
    "muster/v1/cluster.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Sorted maps, so that equal messages have equal bytes.
        .btree_map(".")
        .bytes(".muster.edge.v1")
        .bytes(".muster.cluster.v1")
        .bytes(".opamp.proto.v1.AgentToServer.instance_uid")
        // The console and `-o json` print what the API answers.
        .type_attribute(".muster.v1", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
