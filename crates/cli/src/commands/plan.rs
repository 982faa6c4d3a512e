//! `plan`: what a run would do.

use std::collections::BTreeMap;

use forebay_control::api::{Op, PlanResult, Run};

use crate::args::PlanArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::secrets::Wanted;

pub fn run(context: &Context, args: PlanArgs) -> Result<()> {
    let wanted = Wanted::of_project(&args.project_dir, &args.parameters)?;
    let mut session = context.session()?;
    let target = session.or_active(args.at.clone());
    let mut run = request(&args, target)?;
    wanted.strip(&mut run.parameters);
    let plan: PlanResult = session.call(Op::Plan(run))?;
    if context.out.is_json() {
        context.out.object(serde_json::to_value(&plan).map_err(|error| Error::Answer { why: error.to_string() })?)?;
    } else {
        context.out.data(&plan.drawing)?;
    }
    Ok(())
}

/// The request of a plan, which is also the start of a run's.
pub fn request(args: &PlanArgs, at: String) -> Result<Run> {
    let folder = std::path::absolute(&args.project_dir).map_err(|error| Error::file("find", &args.project_dir, &error))?;
    let project_dir =
        folder.into_os_string().into_string().map_err(|folder| Error::file("use", folder, &"its name is not UTF-8 text"))?;
    Ok(Run {
        project_dir,
        at,
        namespace: args.namespace.clone(),
        parameters: args.parameters.iter().cloned().collect::<BTreeMap<_, _>>(),
        secrets: None,
        strict: args.is_strict(),
        dry_run: false,
        preview: "off".to_owned(),
        detach: false,
        cpus: None,
        memory_bytes: None,
    })
}
