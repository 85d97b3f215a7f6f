//! What an implementor adds to the controller: variables of job pods, routes of the callback port, background tasks.
//!
//! A binary of its own hands `app::main` a function from the configuration, `custom` in it, to an [`Extension`];
//! `examples/baseline.rs` is one. Every command of that binary knows the extension: `validate` says what is wrong in
//! `custom`, `render` shows its variables, `mock` serves its routes. Nothing of the controller's own goes through here.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, EnvVar};
use tokio::task::JoinSet;
use tracing::info;

use crate::core::job_pod::{ExtensionVariables, JobPodInstance, JobPodSpec};

/// Variables, routes and tasks; a new one has none.
#[derive(Debug, Default)]
pub struct Extension {
    pub(crate) variables: ExtensionVariables,
    pub(crate) routes: Router,
    pub(crate) tasks: Vec<Task>,
}

/// A background task, to be started any number of times.
pub(crate) struct Task {
    name: String,
    start: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Extension {
    /// One that adds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds variables to each container of each job pod, init containers too; they replace the template's of the same
    /// name. The controller's own ([`RESERVED_VARIABLES`](crate::core::job_pod::RESERVED_VARIABLES)) cannot be set:
    /// that is an error at the start, or of the node where the name is first given later. Called for every pod: it must
    /// not block.
    #[must_use]
    pub fn variables(
        mut self,
        variables: impl Fn(&JobPodSpec, JobPodInstance<'_>, &Container) -> Vec<EnvVar>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.variables = ExtensionVariables::new(variables);
        self
    }

    /// Adds routes to the callback port, where job pods reach them. They are asked before the callback API, so one
    /// below `/report/` would hide it; and they need no token and no admitted pair.
    ///
    /// # Panics
    /// Where two have the same path, or a second fallback.
    #[must_use]
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Adds a background task: it is started whenever this process leads, and dropped at its next `await` when it does
    /// not any more or shuts down. A task that returns an error, or panics, ends the process with status 1, as a dead
    /// part of the controller does; one that returns `Ok` has done its work.
    #[must_use]
    pub fn task<F, E>(
        mut self,
        name: impl Into<String>,
        start: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let start = move || {
            let work = start();
            async move { work.await.map_err(|error| format!("{error:#}")) }.boxed()
        };
        self.tasks.push(Task {
            name: name.into(),
            start: Box::new(start),
        });
        self
    }
}

/// Runs the tasks; ends with a line about the first that fails, and never where none does. Dropping it ends them all.
pub(crate) async fn run_tasks(tasks: Arc<[Task]>) -> String {
    let mut running = JoinSet::new();
    for task in tasks.iter() {
        let (name, work) = (task.name.clone(), (task.start)());
        running.spawn(async move {
            // Caught here, where the name is known.
            let ended = std::panic::AssertUnwindSafe(work).catch_unwind().await;
            (name, ended)
        });
    }
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok((name, Ok(Ok(())))) => info!(task = name, "background task has done its work"),
            Ok((name, Ok(Err(error)))) => return format!("background task {name:?}: {error}"),
            Ok((name, Err(_))) => return format!("background task {name:?} panicked"),
            Err(error) => return format!("a background task has ended: {error}"),
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    async fn end(extension: Extension) -> Option<String> {
        let run = run_tasks(extension.tasks.into());
        tokio::time::timeout(Duration::from_mins(1), run).await.ok()
    }

    fn with_one_for_ever() -> Extension {
        Extension::new().task("forever", std::future::pending::<Result<(), String>>)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_task_that_fails_ends_them_all_and_is_named() {
        let failing = with_one_for_ever().task("broken", async || Err("no disk"));
        assert_eq!(
            end(failing).await.unwrap(),
            "background task \"broken\": no disk"
        );
        let panicking = with_one_for_ever().task("broken", async || -> Result<(), String> {
            panic!("the test's own")
        });
        assert_eq!(
            end(panicking).await.unwrap(),
            "background task \"broken\" panicked"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_may_have_done_its_work() {
        let done = with_one_for_ever().task("done", async || Ok::<_, String>(()));
        assert_eq!(end(done).await, None);
        assert_eq!(end(Extension::new()).await, None);
    }

    #[tokio::test]
    async fn dropping_the_run_ends_the_tasks() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let flag = Arc::clone(&ended);
        let extension = Extension::new().task("forever", move || {
            let (flag, started) = (Flag(Arc::clone(&flag)), started.clone());
            async move {
                let _flag = flag;
                started.send(()).unwrap();
                std::future::pending::<Result<(), String>>().await
            }
        });
        let run = tokio::spawn(run_tasks(extension.tasks.into()));
        starts.recv().await.unwrap();
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
        // The last sender went with the task and its maker.
        assert_eq!(starts.recv().await, None);
        assert!(ended.load(Ordering::SeqCst));
    }
}
