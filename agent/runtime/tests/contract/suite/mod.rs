//! What every runtime promises.

mod exec;
mod life;
mod limits;
mod output;

pub(crate) use exec::*;
pub(crate) use life::*;
pub(crate) use limits::*;
pub(crate) use output::*;

/// Makes a test of every rule for the runtime of `$bench`.
macro_rules! contract {
    ($bench:path) => {
        $crate::suite::contract!($bench:
            a_command_runs_and_its_exit_code_is_exact,
            a_command_ends_by_itself_within_its_grace,
            a_command_that_ignores_term_is_killed_after_its_grace,
            stop_and_remove_and_start_may_be_repeated,
            the_last_lines_of_output_are_read_with_their_times,
            output_is_followed_to_the_end_of_the_command,
            a_command_in_a_container_has_input_output_and_exit_code,
            a_command_in_a_container_has_environment_and_folder,
            a_terminal_is_resized,
            create_is_repeatable_and_another_generation_is_refused,
            owners_do_not_see_each_other,
            a_restarted_agent_finds_its_containers,
            limits_are_in_force_and_their_cgroups_go_with_the_container,
            lack_of_memory_is_told,
            a_missing_command_is_told,
            a_missing_command_beside_the_main_one_is_told,
            events_tell_the_life_of_a_container,
            use_is_measured,
            new_privileges_are_forbidden_and_another_user_has_no_capabilities,
            environment_folder_and_terminal_are_as_asked,
            what_cannot_be_carried_out_is_refused,
            an_image_that_is_there_needs_no_pull,
            a_container_that_is_absent_is_told,
        );
    };
    ($bench:path: $($rule:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let bench = $bench();
                $crate::suite::$rule(&bench).await;
                bench.finish().await;
            }
        )*
    };
}
pub(crate) use contract;
