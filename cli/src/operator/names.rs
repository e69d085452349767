//! Asks for the names behind uids, so that people read host names. A name that is not found out is no failure.

use futures::StreamExt;
use proto::api;

use crate::operator::client::Client;
use crate::render::names::Names;

/// Agents that are asked for; further ones are shown by their uids.
const NAMES_MAX: usize = 100;
/// Questions at a time.
const AT_ONCE: usize = 16;

/// Adds the names of these agents, as far as they are not known yet.
pub async fn learn<'a>(
    names: &mut Names,
    uids: impl IntoIterator<Item = &'a str>,
    client: &Client,
) {
    let mut unknown: Vec<&str> = uids.into_iter().filter(|uid| !names.know(uid)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown.truncate(NAMES_MAX);
    let mut answers = futures::stream::iter(unknown)
        .map(async |uid| (uid, name(uid, client).await))
        .buffer_unordered(AT_ONCE);
    while let Some((uid, name)) = answers.next().await {
        // Also where there is none, so that it is not asked for again.
        names.learn(uid.to_owned(), name.unwrap_or_default());
    }
}

async fn name(uid: &str, client: &Client) -> Option<String> {
    let request = api::GetAgentRequest {
        uid: uid.to_owned(),
        ..api::GetAgentRequest::default()
    };
    let answer = client.agents().get_agent(request).await.ok()?;
    Some(answer.into_inner().agent?.name)
}
