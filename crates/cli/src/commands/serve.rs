//! `serve`: the lake as an Iceberg REST catalog, until Ctrl-C.

use std::net::{IpAddr, Ipv4Addr};

use forebay_control::rest::{self, Access, Options, Server};
use forebay_types::Coded;
use serde_json::json;

use crate::args::ServeArgs;
use crate::context::Context;
use crate::error::{Failure, Result};

fn told(error: rest::Error) -> Failure {
    error.report().into()
}

pub fn run(context: &Context, args: ServeArgs) -> Result<()> {
    let settings = context.settings()?;
    let host = address(&args.host)?;
    let token = match (args.token.filter(|token| !token.is_empty()), args.no_token) {
        (_, true) => None,
        (Some(token), _) => Some(token),
        (None, false) => Some(rest::token_of(&context.home()?)?),
    };
    let access = token.clone().map_or(Access::Open, Access::Token);
    let options = Options { host, port: args.port, access, lake: settings.lake.clone(), author: settings.author };
    let server = Server::bind(options).map_err(told)?;
    let at = args.at.unwrap_or(settings.active_branch);
    let url = server.url();
    if context.out.is_json() {
        let base = format!("{url}/iceberg/{at}");
        context.out.object(json!({ "url": url, "base": base, "ref": at, "token": token, "lake": settings.lake }))?;
    } else {
        context.out.data(&rest::hello(&url, &at, token.as_deref()))?;
    }
    context.out.talk(&format!("serving {} at {url}; Ctrl-C ends it", settings.lake));
    server.run().map_err(told)
}

/// The address to listen on; `localhost` is this machine.
fn address(host: &str) -> Result<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    host.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| {
        let why = "an address is one of this machine's, as `127.0.0.1`, `::1` or `0.0.0.0`".to_owned();
        forebay_control::Error::BadValue { what: "the address", value: host.to_owned(), why }.into()
    })
}
