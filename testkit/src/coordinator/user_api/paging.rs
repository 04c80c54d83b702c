//! Pages of lists, by their number as GitLab's offset pagination has them.

use http::StatusCode;
use http::header::{HeaderName, LINK};
use serde_json::Value;

use super::asked::Asked;
use crate::coordinator::wire::Reply;

/// GitLab's default, and the most that it gives at once.
const PAGE_SIZE: usize = 20;
const LARGEST_PAGE: usize = 100;

/// Whether the answer says how many items there are. GitLab does not count jobs of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Total {
    Counted,
    Unknown,
}

impl Asked<'_> {
    /// Answers with the page of a list that the request asks for. Addresses of other pages begin with `url`.
    pub(super) fn page<T>(
        &self,
        url: &str,
        items: &[T],
        total: Total,
        view: impl Fn(&T) -> Value,
    ) -> Result<Reply, Reply> {
        let size = self.whole("per_page", PAGE_SIZE)?.min(LARGEST_PAGE);
        let page = self.whole("page", 1)?;
        let start = (page - 1).saturating_mul(size).min(items.len());
        let end = start.saturating_add(size).min(items.len());
        let shown: Vec<Value> = items.get(start..end).unwrap_or_default().iter().map(view).collect();
        let pages = items.len().div_ceil(size).max(1);
        let next = (end < items.len()).then_some(page + 1);
        let previous = (page > 1).then(|| page - 1);

        let link = |page: usize, relation: &str| {
            let address = self.address(url, page, size);
            format!("<{address}>; rel=\"{relation}\"")
        };
        let last = (total == Total::Counted).then_some(pages);
        let links = [(previous, "prev"), (next, "next"), (Some(1), "first"), (last, "last")];
        let links: Vec<String> = links.into_iter().filter_map(|(page, relation)| Some(link(page?, relation))).collect();
        let number = |page: Option<usize>| page.map(|page| page.to_string()).unwrap_or_default();
        let mut headers = vec![
            ("x-next-page", number(next)),
            ("x-page", page.to_string()),
            ("x-per-page", size.to_string()),
            ("x-prev-page", number(previous)),
        ];
        if total == Total::Counted {
            headers.extend([("x-total", items.len().to_string()), ("x-total-pages", pages.to_string())]);
        }
        let reply = Reply::json(StatusCode::OK, &shown.into()).header_text(LINK, &links.join(", "));
        let with = |reply: Reply, (name, value): (&'static str, String)| {
            reply.header_text(HeaderName::from_static(name), &value)
        };
        Ok(headers.into_iter().fold(reply, with))
    }

    /// A parameter that is at least 1.
    fn whole(&self, name: &str, default: usize) -> Result<usize, Reply> {
        let Some(given) = self.inbound.params.integer(name)? else { return Ok(default) };
        let given = usize::try_from(given).ok().filter(|given| *given > 0);
        given.ok_or_else(|| Reply::error(StatusCode::BAD_REQUEST, format!("{name} has a value not allowed")))
    }

    /// The address of another page, with the parameters of this request. Tokens are left out.
    fn address(&self, url: &str, page: usize, size: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(self.query.unwrap_or_default().as_bytes()) {
            if !matches!(name.as_ref(), "page" | "per_page" | "private_token" | "access_token") {
                query.append_pair(&name, &value);
            }
        }
        query.append_pair("page", &page.to_string()).append_pair("per_page", &size.to_string());
        format!("{url}/api/v4/{}?{}", self.call.path(), query.finish())
    }
}
