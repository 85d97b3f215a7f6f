//! Where job pods call back: the Service where it is set and exists, so that they outlive this pod; else this pod.

use crate::config::Config;
use crate::ports::cluster::{Cluster, ServiceAddress};
use crate::ports::error::{ClusterError, ClusterErrorKind};

/// The host of the callback URLs.
///
/// # Errors
/// `Refused` where there is neither Service nor pod IP, naming both; the cluster's error where the Service cannot be
/// read.
pub async fn resolve(
    cluster: &impl Cluster,
    config: &Config,
    pod_ip: Option<&str>,
) -> Result<String, ClusterError> {
    let service = config.callback_service_name.as_deref();
    if let Some(service) = service {
        match cluster.service_address(service).await {
            Ok(ServiceAddress::ClusterIp(address)) => return Ok(address),
            Ok(ServiceAddress::DnsName(name)) => return Ok(name),
            Err(error) if error.kind == ClusterErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    pod_ip.map(str::to_owned).ok_or_else(|| {
        let found = match service {
            None => "callbackServiceName is not set".to_owned(),
            Some(service) => format!("callbackServiceName names the Service {service:?}, which does not exist"),
        };
        ClusterError::new(
            ClusterErrorKind::Refused,
            format!("no address for callbacks: {found}, and the environment variable POD_IP is not set; set one of them"),
        )
    })
}
