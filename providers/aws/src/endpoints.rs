//! The addresses of AWS's services in each partition.

use crate::transport::Endpoint;

/// The endpoints of the calls that this crate signs itself; the SDK finds STS's.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) iam: Endpoint,
    pub(crate) ec2: Endpoint,
    pub(crate) s3: Endpoint,
}

impl Endpoints {
    /// All at `override_url`, or else AWS's own for the region. IAM has one endpoint per partition.
    pub(crate) fn new(region: &str, override_url: Option<&str>) -> Self {
        let (suffix, iam_host, iam_region) = if region.starts_with("cn-") {
            (
                "amazonaws.com.cn",
                "iam.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
            )
        } else if region.starts_with("us-gov-") {
            ("amazonaws.com", "iam.us-gov.amazonaws.com", "us-gov-west-1")
        } else {
            ("amazonaws.com", "iam.amazonaws.com", "us-east-1")
        };
        let endpoint = |service, region: &str, host: String| Endpoint {
            service,
            region: region.to_owned(),
            base: override_url.map_or_else(
                || format!("https://{host}"),
                |url| url.trim_end_matches('/').to_owned(),
            ),
        };
        Self {
            iam: endpoint("iam", iam_region, iam_host.to_owned()),
            ec2: endpoint("ec2", region, format!("ec2.{region}.{suffix}")),
            s3: endpoint("s3", region, format!("s3.{region}.{suffix}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_overrides() {
        let of = |region, url| {
            let e = Endpoints::new(region, url);
            [e.iam.base, e.iam.region, e.ec2.base, e.s3.base]
        };
        assert_eq!(
            of("eu-central-1", None),
            [
                "https://iam.amazonaws.com",
                "us-east-1",
                "https://ec2.eu-central-1.amazonaws.com",
                "https://s3.eu-central-1.amazonaws.com"
            ]
        );
        assert_eq!(
            of("cn-north-1", None)[2],
            "https://ec2.cn-north-1.amazonaws.com.cn"
        );
        assert_eq!(of("us-gov-east-1", None)[1], "us-gov-west-1");
        assert_eq!(
            of("eu-west-1", Some("http://127.0.0.1:1/"))[3],
            "http://127.0.0.1:1"
        );
    }
}
