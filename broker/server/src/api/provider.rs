//! `ProviderService`.

use taskpass_proto::v1::{
    CheckProviderRequest, CheckProviderResponse, GetProviderRequest, GetProviderResponse,
    ListProvidersRequest, ListProvidersResponse, provider_service_server::ProviderService,
};
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

#[tonic::async_trait]
impl ProviderService for Api {
    /// Providers are configuration: a handful, so there is always just one page.
    async fn list_providers(
        &self,
        request: Request<ListProvidersRequest>,
    ) -> Result<Response<ListProvidersResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let views = self
            .engine
            .list_providers(&call)
            .await
            .map_err(status::from)?;
        Ok(Response::new(ListProvidersResponse {
            providers: views.iter().map(convert::provider).collect(),
            next_page_token: String::new(),
        }))
    }

    async fn get_provider(
        &self,
        request: Request<GetProviderRequest>,
    ) -> Result<Response<GetProviderResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let view = self
            .engine
            .provider(&call, &request.get_ref().name)
            .await
            .map_err(status::from)?;
        Ok(Response::new(GetProviderResponse {
            provider: Some(convert::provider(&view)),
        }))
    }

    async fn check_provider(
        &self,
        request: Request<CheckProviderRequest>,
    ) -> Result<Response<CheckProviderResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let health = self
            .engine
            .check_provider(&call, &request.get_ref().name)
            .await
            .map_err(status::from)?;
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
    }
}
