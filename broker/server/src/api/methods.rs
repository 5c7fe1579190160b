//! The names of all gRPC methods, as metrics and logs have them.

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The package of the broker's own services.
const OWN_PACKAGE: &str = "taskpass.v1";

/// Every method that [`super::routes`] can serve: `Service/Method` for our own,
/// `package.Service/Method` for health and reflection.
pub(crate) fn methods() -> Vec<String> {
    let sets = [
        taskpass_proto::v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for set in sets {
        // INVARIANT: the sets are compiled in, so they decode; a test says so.
        let files = FileDescriptorSet::decode(set).unwrap_or_default().file;
        for file in files {
            let package = match file.package() {
                OWN_PACKAGE => String::new(),
                other => format!("{other}."),
            };
            for service in &file.service {
                let names = service.method.iter().map(|method| method.name());
                let full = |name| format!("{package}{}/{name}", service.name());
                methods.extend(names.map(full));
            }
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_services_health_and_reflection_are_known() {
        let methods = methods();
        for method in [
            "IdentityService/Attest",
            "CredentialService/IssueCredential",
            "LedgerService/ExportLedger",
            "grpc.health.v1.Health/Check",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(
                methods.iter().any(|it| it == method),
                "{method} {methods:?}"
            );
        }
    }
}
