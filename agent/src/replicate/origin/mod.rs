//! The origin's side: [`share`] offers what [`plan`] finds lacking by [`wanted`] (how many copies) and [`rank`] (what is worth most);
//! [`holders`] judges who can be redirected to now, and [`probe`] asks them; a [`debt`] is paid back by all workers together.

pub mod debt;
pub mod holders;
pub mod plan;
pub mod probe;
pub mod rank;
pub mod share;
pub mod wanted;
