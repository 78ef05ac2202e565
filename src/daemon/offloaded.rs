//! A question to the kernel on a thread of its own: the event loop goes on until the answer is there. Dumps of a host with many links and
//! addresses take milliseconds, and any request may wait for others that hold the kernel's lock on its network devices.

use std::future::pending;

use tokio::task::JoinHandle;
use tracing::error;

/// At most one question at a time.
#[derive(Debug)]
pub struct Offloaded<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Offloaded<T> {
    /// Asks nothing yet.
    pub fn new() -> Self {
        Offloaded(None)
    }

    /// Asks on another thread, in place of a question that goes on.
    pub fn ask(&mut self, question: impl FnOnce() -> T + Send + 'static) {
        self.0 = Some(tokio::task::spawn_blocking(question));
    }

    /// Waits for the answer: for ever where nothing was asked. A question that panicked has none.
    pub async fn answer(&mut self) -> Option<T> {
        let Some(question) = &mut self.0 else {
            return pending().await;
        };
        let answer = question.await;
        self.0 = None;
        answer
            .inspect_err(|error| error!(%error, "a question to the kernel"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap()
    }

    /// The kernel is released by the loop itself: one that waited for it would wait for ever.
    #[test]
    fn the_loop_goes_on_while_the_kernel_is_silent() {
        runtime().block_on(async {
            let (kernel, silent) = channel();
            let mut asked = Offloaded::new();
            asked.ask(move || silent.recv().unwrap());
            for turn in 0..3 {
                let tick = Duration::from_millis(10);
                tokio::select! {
                    answer = asked.answer() => panic!("{answer:?} in turn {turn}"),
                    () = tokio::time::sleep(tick) => {}
                }
            }
            kernel.send(7).unwrap();
            assert_eq!(asked.answer().await, Some(7));
        });
    }

    #[test]
    fn a_question_that_panics_has_no_answer_and_ends_nothing() {
        runtime().block_on(async {
            let mut asked: Offloaded<u8> = Offloaded::new();
            asked.ask(|| panic!("on purpose"));
            assert_eq!(asked.answer().await, None);
            asked.ask(|| 1);
            assert_eq!(asked.answer().await, Some(1));
        });
    }
}
