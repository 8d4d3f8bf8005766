// A description is read when its writer pauses, not at every key: the button that reads it is pressed for them.
(() => {
  const PAUSE_MS = 450;
  const timers = new WeakMap();
  document.addEventListener("input", (event) => {
    const field = event.target.closest && event.target.closest("[id^='live-']");
    if (!field || !event.target.matches("textarea, input[type='text']")) return;
    clearTimeout(timers.get(field));
    timers.set(field, setTimeout(() => {
      const button = document.getElementById(field.id.replace("live-", "read-"));
      if (button) button.click();
    }, PAUSE_MS));
  });
})();
