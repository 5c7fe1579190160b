//! `ProviderService`.

use taskpass_proto::v1::{
    CheckProviderRequest, CheckProviderResponse, GetProviderRequest, GetProviderResponse,
    ListProvidersRequest, ListProvidersResponse, provider_service_server::ProviderService,
};
use tonic::{Request, Response, Status};

use super::{Api, convert, parse};

#[tonic::async_trait]
impl ProviderService for Api {
    /// Providers are configuration: a handful, so there is always just one page.
    async fn list_providers(
        &self,
        request: Request<ListProvidersRequest>,
    ) -> Result<Response<ListProvidersResponse>, Status> {
        self.answer(request, |call, _| async move {
            let views = self.engine.list_providers(&call).await?;
            Ok(Response::new(ListProvidersResponse {
                providers: views.iter().map(convert::provider).collect(),
                next_page_token: String::new(),
            }))
        })
        .await
    }

    async fn get_provider(
        &self,
        request: Request<GetProviderRequest>,
    ) -> Result<Response<GetProviderResponse>, Status> {
        self.answer(request, |call, message| async move {
            let name = parse::value("name", &message.name)?;
            let view = self.engine.provider(&call, &name).await?;
            Ok(Response::new(GetProviderResponse {
                provider: Some(convert::provider(&view)),
            }))
        })
        .await
    }

    async fn check_provider(
        &self,
        request: Request<CheckProviderRequest>,
    ) -> Result<Response<CheckProviderResponse>, Status> {
        self.answer(request, |call, message| async move {
            let name = parse::value("name", &message.name)?;
            let health = self.engine.check_provider(&call, &name).await?;
            Ok(Response::new(match health {
                Ok(health) => CheckProviderResponse {
                    healthy: true,
                    findings: health.findings,
                    warnings: health.warnings,
                    error: String::new(),
                },
                Err(error) => CheckProviderResponse {
                    error: error.to_string(),
                    ..Default::default()
                },
            }))
        })
        .await
    }
}
