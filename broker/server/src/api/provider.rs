//! `ProviderService`.

use taskpass_proto::v1 as pb;
use tonic::{Request, Response};

use super::{Answer, Api, convert, parse};

#[tonic::async_trait]
impl pb::provider_service_server::ProviderService for Api {
    /// Providers are configuration: a handful, so there is always just one page.
    async fn list_providers(
        &self,
        request: Request<pb::ListProvidersRequest>,
    ) -> Answer<pb::ListProvidersResponse> {
        self.answer(request, |call, _| async move {
            let views = self.engine.list_providers(&call).await?;
            Ok(Response::new(pb::ListProvidersResponse {
                providers: views.iter().map(convert::provider).collect(),
                next_page_token: String::new(),
            }))
        })
        .await
    }

    async fn get_provider(
        &self,
        request: Request<pb::GetProviderRequest>,
    ) -> Answer<pb::GetProviderResponse> {
        self.answer(request, |call, message| async move {
            let name = parse::value("name", &message.name)?;
            let view = self.engine.provider(&call, &name).await?;
            Ok(Response::new(pb::GetProviderResponse {
                provider: Some(convert::provider(&view)),
            }))
        })
        .await
    }

    async fn check_provider(
        &self,
        request: Request<pb::CheckProviderRequest>,
    ) -> Answer<pb::CheckProviderResponse> {
        self.answer(request, |call, message| async move {
            let name = parse::value("name", &message.name)?;
            let health = self.engine.check_provider(&call, &name).await?;
            Ok(Response::new(match health {
                Ok(health) => pb::CheckProviderResponse {
                    healthy: true,
                    findings: health.findings,
                    warnings: health.warnings,
                    error: String::new(),
                },
                Err(error) => pb::CheckProviderResponse {
                    error: error.to_string(),
                    ..Default::default()
                },
            }))
        })
        .await
    }
}
