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

  // A table never leaves the browser as a file: it is read here and becomes the text of its field.
  const MOST_BYTES = 1000000;
  document.addEventListener("change", async (event) => {
    const chooser = event.target;
    if (!chooser.matches || !chooser.matches("input[type='file'][data-into]") || !chooser.files.length) return;
    const [file] = chooser.files;
    const said = chooser.closest("label").nextElementSibling;
    const say = (text) => { said.textContent = text; };
    say("");
    try {
      if (file.size > MOST_BYTES) return say(`The file has ${file.size} bytes; ${MOST_BYTES} are read.`);
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      const area = document.querySelector(`#${chooser.dataset.into} textarea`);
      area.value = text;
      area.dispatchEvent(new Event("input", { bubbles: true }));
    } catch (problem) {
      say(problem instanceof TypeError ? "The file is not UTF-8 text. Save it as UTF-8." : "The file cannot be read.");
    } finally {
      chooser.value = "";
    }
  });
})();
